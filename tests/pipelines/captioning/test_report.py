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
from pipelines.captioning.summary import clip_token_counter, examine, summarise
from pipelines.captioning.tables import Reject, write_candidates, write_rejects

from .fake_run import HOSTILE, FakeRun, candidates_of, drawn_image, drawn_run


def count_words(text: str) -> int:
    return len(text.split()) + 2


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> FakeRun:
    return drawn_run(tmp_path_factory.mktemp("run"), 20, hostile={3}, failed={5, 11})


@pytest.fixture(scope="module")
def summary(run):
    return summarise(run.parts, count_words, run.rejects)


def test_summary_counts_each_model_as_a_plain_recount_does(run, summary):
    assert [one.model for one in summary.models] == sorted({one.model for one in run.candidates})
    for one in summary.models:
        own = [each for each in run.candidates if each.model == one.model]
        kept = [each for each in own if not each.drop_reason]
        phrases = [phrase for each in own for phrase in each.phrases]
        scores = [each.scores.score for each in kept]
        lengths = sorted(count_words(each.text) for each in kept)
        assert one.candidates == len(own)
        assert one.kept == len(kept)
        assert one.dropped == Counter(each.drop_reason for each in own if each.drop_reason)
        assert one.refined == sum(each.text != each.generated for each in kept)
        assert one.phrases == len(phrases)
        assert one.phrases_asked == sum(phrase.score is not None for phrase in phrases)
        assert one.phrases_dropped == sum(not phrase.kept for phrase in phrases)
        assert one.phrase_reasons == Counter(p.reason for p in phrases if p.reason)
        assert one.consensus.n == len(kept)
        assert one.consensus.mean == pytest.approx(statistics.fmean(scores))
        assert one.consensus.sd == pytest.approx(statistics.pstdev(scores))
        assert one.wins == sum(each.chosen for each in own)
        assert one.win_rate == one.wins / summary.captioned
        assert one.tokens.over["77"] == sum(n > 77 for n in lengths) / len(lengths)
        assert one.tokens.median == statistics.median_low(lengths)
        assert (one.requests, one.attempts) == (5 * len(own), 6 * len(own))
        assert (one.prompt_tokens, one.completion_tokens) == (1000 * len(own), 200 * len(own))
        assert one.seconds == pytest.approx(2.5 * len(own))
        assert one.cost == pytest.approx(0.001 * len(own))


def test_win_rates_add_up_to_one(summary):
    assert sum(one.win_rate for one in summary.models) == pytest.approx(1)


def test_summary_counts_images_with_those_that_nobody_could_read(run, summary):
    failed = [group for group in run.groups if not any(one.chosen for one in group)]
    assert len(failed) == 2
    assert summary.images == 21
    assert summary.captioned == 18
    assert summary.without_caption == 3
    assert dict(summary.without_caption_first)["broken-1"] == "truncated"
    assert "timeout (" in dict(summary.without_caption_first)["street-0005"]
    assert summary.words.n == summary.tokens.n == 18
    assert summary.flagged_images == {"phone_number": 4}
    assert summary.rejects["describe: timeout"] == 1


def test_lengths_at_the_limit_are_not_cut(tmp_path):
    group = candidates_of(0, b"", per_model=1)
    texts = [" ".join(["word"] * n) for n in (75, 76, 246)]
    group = [
        replace(one, text=text, drop_reason="") for one, text in zip(group, texts, strict=True)
    ]
    write_candidates(tmp_path / "a.parquet", group)
    found = summarise([tmp_path / "a.parquet"], count_words)
    over = [(one.tokens.over["77"], one.tokens.over["248"]) for one in found.models]
    assert over == [(0, 0), (1, 0), (1, 0)]


def test_summary_of_no_rows_has_no_means(tmp_path):
    write_candidates(tmp_path / "a.parquet", [])
    found = summarise([tmp_path / "a.parquet"], count_words)
    assert (found.images, found.models, found.tokens.mean) == (0, [], None)
    assert "0 images" in markdown(found, "Nothing")


def test_clip_token_counter_equals_the_trainers_tokenizer():
    from pipelines.pretraining.tokenizer import clip_tokenizer

    tokenizer = clip_tokenizer()
    count = clip_token_counter()
    for text in ("A red bus waits.", "Tall, glass-fronted offices & 12 cars; don't stop!", "é 路"):
        assert count(text) == len(tokenizer(text)["input_ids"]), text


def test_gallery_takes_failed_and_hard_images_first_and_fills_up_with_a_sample(run):
    found = examine(run.parts, count_words, run.rejects, gallery_size=10, seed=1)
    why = Counter(choice.why for choice in found.gallery)
    assert why == {"failed": 3, "most_dropped_phrases": 2, "lowest_consensus": 2, "sample": 3}
    best = {
        group[0].image_id: next(one.scores.score for one in group if one.chosen)
        for group in run.groups
        if any(one.chosen for one in group)
    }
    dropped = {
        group[0].image_id: sum(not p.kept for one in group for p in one.phrases)
        for group in run.groups
    }
    by = {name: [c.image_id for c in found.gallery if c.why == name] for name in why}
    most = sorted((dropped[name] for name in best), reverse=True)[:2]
    assert [dropped[name] for name in by["most_dropped_phrases"]] == most
    left = sorted(best[n] for n in best if n not in by["most_dropped_phrases"])
    assert [best[name] for name in by["lowest_consensus"]] == left[:2]


def test_gallery_choice_is_the_seeds_and_not_the_order_of_parts(run):
    def chosen(parts, seed):
        return {
            (choice.image_id, choice.why)
            for choice in examine(parts, count_words, run.rejects, False, 10, seed).gallery
        }

    assert chosen(run.parts, 1) == chosen(run.parts[::-1], 1) != chosen(run.parts, 2)


def test_gallery_never_outgrows_its_size_and_shows_all_of_a_small_run(run):
    assert len(examine(run.parts, count_words, run.rejects, gallery_size=4).gallery) == 4
    everything = examine(run.parts, count_words, run.rejects, gallery_size=500).gallery
    assert len(everything) == len({c.image_id for c in everything}) == 21


def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    group = [one for n in range(20) for one in candidates_of(n, b"", per_model=1)]
    for part in range(12):
        rows = [replace(one, image_id=f"{part}-{one.image_id}") for one in group]
        write_candidates(tmp_path / f"{part:02d}.parquet", rows)
    parts = sorted(tmp_path.glob("*.parquet"))

    def peak(paths) -> int:
        tracemalloc.start()
        examine(paths, count_words, gallery_size=5)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(parts[:2])  # what is imported and cached once
    assert peak(parts) < 1.3 * peak(parts[:2])


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
    assert len(stored["models"]) == 4
    rows = list(csv.DictReader((tmp_path / "a" / "without_caption.csv").open()))
    assert [row["image_id"] for row in rows] == ["broken-1", "street-0005", "street-0011"]


def test_markdown_holds_hostile_names_as_text(tmp_path):
    group = [
        replace(one, model=f"{HOSTILE[n]} a|b\n# head `x` [l](javascript:1) __b__")
        for n, one in enumerate(candidates_of(1, b"", per_model=1))
    ]
    write_candidates(tmp_path / "a.parquet", group)
    write_rejects(tmp_path / "r.parquet", [Reject("<b>|x", "image", "", "<i>|")])
    found = summarise([tmp_path / "a.parquet"], count_words, [tmp_path / "r.parquet"])
    text = markdown(found, "<script> | title")
    assert not {"<", "`", "["} & set(text.replace("[Look at", "").replace("# <", ""))
    assert "\n# head" not in text
    assert "__b__" not in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    for line, rule in itertools.pairwise(tables):
        if rule.startswith("|--"):
            assert line.count("|") == rule.count("|")


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


def test_scores_that_are_null_are_left_out_of_the_means(tmp_path):
    group = [
        replace(one, scores=Scores(), drop_reason="", phrases=(Phrase("x", "object"),))
        for one in candidates_of(1, drawn_image(1), per_model=1)
    ]
    write_candidates(tmp_path / "a.parquet", group)
    for one in summarise([tmp_path / "a.parquet"], count_words).models:
        assert one.consensus.n == 0
        assert one.consensus.mean is None
        assert one.phrases_asked == 0
