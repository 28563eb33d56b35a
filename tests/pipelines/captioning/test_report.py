import csv
import itertools
import json
import statistics
import tracemalloc
from collections import Counter
from dataclasses import replace

import pytest

from pipelines.captioning.records import Phrase, Scores
from pipelines.captioning.report import markdown, write_report
from pipelines.captioning.summary import clip_token_counter, examine
from pipelines.captioning.tables import Reject, write_candidates, write_rejects

from .fake_run import HOSTILE, FakeRun, candidates_of, drawn_image, drawn_run


def count_words(text: str) -> int:
    return len(text.split()) + 2


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> FakeRun:
    return drawn_run(tmp_path_factory.mktemp("run"), 20, hostile={3}, failed={5, 11})


@pytest.fixture(scope="module")
def summary(run):
    return examine(run.parts, run.rejects, count_words).summary


@pytest.fixture
def examined(tmp_path):
    """Examines a group of candidates."""

    def call(group, rejects=()):
        write_candidates(tmp_path / "a.parquet", group)
        write_rejects(tmp_path / "r.parquet", rejects)
        return examine([tmp_path / "a.parquet"], [tmp_path / "r.parquet"], count_words)

    return call


def test_summary_counts_each_model_as_a_plain_recount_does(run, summary):
    models = summary["models"]
    assert [one["model"] for one in models] == sorted({one.model for one in run.candidates})
    for one in models:
        own = [each for each in run.candidates if each.model == one["model"]]
        kept = [each for each in own if not each.drop_reason]
        phrases = [phrase for each in own for phrase in each.phrases]
        scores = [each.scores.score for each in kept]
        lengths = sorted(count_words(each.text) for each in kept)
        wins = sum(each.chosen for each in own)
        expected = {
            "candidates": len(own),
            "kept": len(kept),
            "dropped": Counter(each.drop_reason for each in own if each.drop_reason),
            "refined": sum(each.text != each.generated for each in kept),
            "phrases": len(phrases),
            "phrases_asked": sum(phrase.score is not None for phrase in phrases),
            "phrases_dropped": sum(not phrase.kept for phrase in phrases),
            "phrase_reasons": Counter(p.reason for p in phrases if p.reason),
            "wins": wins,
            "win_rate": wins / summary["captioned"],
            "requests": 5 * len(own),
            "attempts": 6 * len(own),
            "prompt_tokens": 1000 * len(own),
            "completion_tokens": 200 * len(own),
            "seconds": pytest.approx(2.5 * len(own)),
            "cost": pytest.approx(0.001 * len(own)),
        }
        assert {name: one[name] for name in expected} == expected
        mean, sd = statistics.fmean(scores), statistics.pstdev(scores)
        spread = {"n": len(kept), "mean": pytest.approx(mean), "sd": pytest.approx(sd)}
        assert one["consensus"] == spread
        assert one["tokens"]["over"]["77"] == sum(n > 77 for n in lengths) / len(lengths)
        assert one["tokens"]["median"] == statistics.median_low(lengths)
    assert sum(one["win_rate"] for one in models) == pytest.approx(1)


def test_summary_counts_images_with_those_that_nobody_could_read(run, summary):
    assert (summary["images"], summary["captioned"], summary["without_caption"]) == (21, 18, 3)
    first = dict(summary["without_caption_first"])
    assert first["broken-1"] == "truncated"
    assert "timeout (" in first["street-0005"]
    assert summary["words"]["n"] == summary["tokens"]["n"] == 18
    assert summary["flagged_images"] == {"phone_number": 4}
    assert summary["rejects"]["describe: timeout"] == 1


def test_lengths_at_the_limit_are_not_cut(examined):
    group = [
        replace(one, text=" ".join(["word"] * n), drop_reason="")
        for one, n in zip(candidates_of(0, b"", per_model=1), (75, 76, 246), strict=True)
    ]
    over = [one["tokens"]["over"] for one in examined(group).summary["models"]]
    assert over == [{"77": n, "248": 0} for n in (0, 1, 1)]


def test_summary_of_no_rows_has_no_means(examined):
    found = examined([])
    assert (found.summary["images"], found.summary["models"]) == (0, [])
    assert found.summary["tokens"]["mean"] is None
    assert "0 images" in markdown(found, "Nothing")


def test_scores_that_are_null_are_left_out_of_the_means(examined):
    group = [
        replace(one, scores=Scores(), drop_reason="", phrases=(Phrase("x", "object"),))
        for one in candidates_of(1, drawn_image(1), per_model=1)
    ]
    for one in examined(group).summary["models"]:
        assert one["consensus"] == {"n": 0, "mean": None, "sd": None}
        assert one["phrases_asked"] == 0


def test_clip_token_counter_equals_the_trainers_tokenizer():
    from pipelines.common.tokenizer import clip_tokenizer

    tokenizer = clip_tokenizer()
    count = clip_token_counter()
    for text in ("A red bus waits.", "Tall, glass-fronted offices & 12 cars; don't stop!", "é 路"):
        assert count(text) == len(tokenizer(text)["input_ids"]), text


def test_gallery_takes_failed_and_hard_images_first_and_fills_up_with_a_sample(run):
    found = examine(run.parts, run.rejects, count_words, gallery_size=10, seed=1)
    why = Counter(choice.why for choice in found.gallery)
    assert why == {"failed": 3, "most_dropped_phrases": 2, "lowest_consensus": 2, "sample": 3}
    best = {one.image_id: one.scores.score for one in run.candidates if one.chosen}
    dropped = {
        group[0].image_id: sum(not p.kept for one in group for p in one.phrases)
        for group in run.groups
    }
    by = {name: [c.image_id for c in found.gallery if c.why == name] for name in why}
    most = sorted((dropped[name] for name in best), reverse=True)[:2]
    assert [dropped[name] for name in by["most_dropped_phrases"]] == most
    left = sorted(best[n] for n in best if n not in by["most_dropped_phrases"])
    assert [best[name] for name in by["lowest_consensus"]] == left[:2]


def test_gallery_choice_depends_on_the_seed_and_not_on_the_order_of_parts(run):
    def chosen(parts, seed, size=10):
        found = examine(parts, run.rejects, count_words, gallery_size=size, seed=seed)
        return {(choice.image_id, choice.why) for choice in found.gallery}

    assert chosen(run.parts, 1) == chosen(run.parts[::-1], 1) != chosen(run.parts, 2)
    assert len(chosen(run.parts, 1, size=4)) == 4
    assert len({name for name, _ in chosen(run.parts, 1, size=500)}) == 21


def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    group = [one for n in range(20) for one in candidates_of(n, b"", per_model=1)]
    for part in range(24):
        rows = [replace(one, image_id=f"{part}-{one.image_id}") for one in group]
        write_candidates(tmp_path / f"{part:02d}.parquet", rows)
    parts = sorted(tmp_path.glob("*.parquet"))

    def peak(paths) -> int:
        tracemalloc.start()
        examine(paths, count_tokens=count_words, gallery_size=5)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(parts)  # what is imported, cached and kept in free lists
    assert peak(parts) < 1.3 * peak(parts[:4])


def test_report_is_written_whole_and_the_same_again(run, tmp_path):
    for folder in ("a", "b"):
        write_report(
            tmp_path / folder,
            run.parts,
            run.rejects,
            run.read_images,
            count_words,
            gallery_size=6,
            currency="USD",
        )
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == ["gallery.html", "report.json", "report.md", "without_caption.csv"]
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    stored = json.loads((tmp_path / "a" / "report.json").read_text())
    assert stored["captioned"] == 18
    rows = list(csv.DictReader((tmp_path / "a" / "without_caption.csv").open()))
    assert [row["image_id"] for row in rows] == ["broken-1", "street-0005", "street-0011"]


def test_a_spreadsheet_reads_no_formula(tmp_path):
    formula = '=HYPERLINK("http://a","b")'
    write_rejects(tmp_path / "r.parquet", [Reject(formula, "image", "", "@truncated")])
    write_report(tmp_path, [], [tmp_path / "r.parquet"], count_tokens=count_words)
    rows = list(csv.DictReader((tmp_path / "without_caption.csv").open()))
    assert rows == [{"image_id": f"'{formula}", "reasons": "'@truncated"}]


def test_markdown_holds_hostile_names_as_text_in_aligned_tables(examined):
    group = [
        replace(one, model=f"{HOSTILE[n]} a|b\n# head `x` [l](javascript:1) __b__")
        for n, one in enumerate(candidates_of(1, b"", per_model=1))
    ]
    found = examined(group, [Reject("<b>|x", "image", "", "<i>|")])
    text = markdown(found, "<script> | title")
    assert not {"<", "`", "["} & set(text.replace("[Selected", ""))
    assert "\n# head" not in text
    assert "__b__" not in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    for line, rule in itertools.pairwise(tables):
        if rule.startswith("| -"):
            assert [at for at, c in enumerate(line) if c == "|"] == [
                at for at, c in enumerate(rule) if c == "|"
            ]


@pytest.mark.parametrize("synthetic", [True, False])
def test_report_says_synthetic_where_it_is(run, tmp_path, synthetic):
    path = write_report(
        tmp_path, run.parts, run.rejects, None, count_words, 4, synthetic=synthetic, title="Run"
    )
    headings = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert len(headings) > 7
    assert all(("synthetic" in line) == synthetic for line in headings)
    assert json.loads((tmp_path / "report.json").read_text())["synthetic"] is synthetic
    assert ("ynthetic" in (tmp_path / "gallery.html").read_text().split("<main>")[1]) == synthetic
