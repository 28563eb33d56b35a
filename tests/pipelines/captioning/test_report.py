"""Report and gallery of an artificial run with hostile texts."""

import hashlib
import json
import re

import numpy as np
import pytest
from PIL import Image

from dataset_builders.images import encode_image
from pipelines.captioning.records import (
    Box,
    Candidate,
    LocalCaption,
    Phrase,
    Sampling,
    Scores,
    SourceImage,
    Usage,
)
from pipelines.captioning.report import examine, write_report
from pipelines.captioning.tables import Reject, write_candidates, write_rejects

HOSTILE = (
    '"><img src=x onerror="window.hacked = 1"></script><script>window.hacked = 1</script> '
    "</style><style>body{display:none}</style> | [a](javascript:alert(1)) \u202egnp.exe"
)
MODELS = ("adapter", "internvl")


def noise(number: int) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 255, (30, 60, 3), dtype=np.uint8)
    return encode_image(Image.fromarray(pixels))


def candidates_of(number: int, failed: bool = False, text: str = "A wide road.") -> list[Candidate]:
    """Two candidates; the second model's is a refusal for every third image."""
    made = []
    for rank, model in enumerate(MODELS):
        drop = "timeout" if failed else "refusal" if rank and number % 3 == 0 else ""
        score = None if drop else 0.9 - 0.01 * number - 0.1 * rank
        tram = Phrase(f"tram {text}", "object", "caption", 1, 0.001, False, "below_threshold")
        one = Candidate(
            *(f"street-{number:03d}", hashlib.sha256(noise(number)).hexdigest()),
            *("street_view", model, f"org/{model}@1", "street@1", 0, Sampling()),
            text="" if failed else text,
            generated=f"{text} A tram.",
            details=(LocalCaption(Box(3, 5, 10, 20), text),),
            phrases=(Phrase("road", "object", score=0.4), tram),
            drop_reason=drop,
            scores=Scores(score, score, score, score, score),
            chosen=not failed and rank == 0,
            usage=Usage(2, 3, 100, 20, 1.5, 0.25),
        )
        made.append(one)
    return made


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Folder of a report on nine images: seven good ones, a failed one and a hostile one."""
    folder = tmp_path_factory.mktemp("report")
    groups = [candidates_of(number) for number in range(7)]
    groups += [candidates_of(7, failed=True), candidates_of(8, text=HOSTILE)]
    for part, some in enumerate((groups[:4], groups[4:])):
        write_candidates(folder / f"{part}.parquet", [one for group in some for one in group])
    rejects = [
        Reject("street-007", "image", "", "no_caption", "timeout"),
        Reject("torn", "image", "", "truncated", "JPEG data end"),
        Reject("street-001", "local", "adapter", "timeout", "no answer", 4),
    ]
    write_rejects(folder / "rejects.parquet", rejects)
    sources = [
        SourceImage(group[0].image_id, "street_view", group[0].image_sha256, noise(number))
        for number, group in enumerate(groups)
    ]
    write_report(
        folder / "report",
        [folder / "0.parquet", folder / "1.parquet"],
        [folder / "rejects.parquet"],
        lambda ids: (one for one in sources if one.image_id in ids),
        "Captions of harborview (synthetic)",
        synthetic=True,
        gallery_size=6,
    )
    return folder / "report"


def test_counts_equal_those_of_the_tables(report):
    found = json.loads((report / "report.json").read_text())
    assert (found["images"], found["captioned"], found["without_caption"]) == (10, 8, 2)
    assert found["rejects"] == {"image: no_caption": 1, "image: truncated": 1, "local: timeout": 1}
    first, second = found["models"]
    assert (first["candidates"], first["kept"], first["chosen"]) == (9, 8, 8)
    assert (first["dropped"], second["dropped"]) == ({"timeout": 1}, {"refusal": 3, "timeout": 1})
    assert (first["share_of_chosen"], second["share_of_chosen"]) == (1, 0)
    numbers = [*range(7), 8]
    assert first["mean_consensus"] == pytest.approx(np.mean([0.9 - 0.01 * n for n in numbers]))
    assert (first["phrases"], first["phrases_dropped"]) == (18, 9)
    assert (first["requests"], first["attempts"], first["cost"]) == (18, 27, 2.25)


def test_report_has_all_tables_and_says_synthetic(report):
    text = (report / "report.md").read_text()
    assert "**All results are synthetic" in text
    assert "10 images (9 street_view): 8 with a caption, 2 without." in text
    assert "| adapter | 9 | 8 (88.9%) | 8 (100.0%) | 9 (50.0%) | 0.864 | 8 (100.0%) |" in text
    assert "| refusal | 0 | 3 |" in text
    assert "| adapter | 18 | 27 | 900 | 180 | 13.5 | 2.2500 |" in text
    assert "| image: truncated | 1 |" in text
    assert all("(synthetic)" in line for line in text.splitlines() if line.startswith("#"))


def test_gallery_shows_failures_low_consensus_and_a_random_sample(report):
    tables = [report.parent / f"{part}.parquet" for part in (0, 1)]
    _, chosen = examine(tables, gallery_size=6)
    assert len(chosen) == 6
    assert chosen[1, "street-007"] == "without a caption"
    lowest = [image_id for (_, image_id), why in chosen.items() if why == "lowest consensus"]
    assert sorted(lowest) == ["street-006", "street-008"]
    assert list(chosen.values()).count("random sample") == 3
    assert examine(tables, gallery_size=6)[1] == chosen
    assert len(examine(tables, gallery_size=99)[1]) == 9


def test_gallery_escapes_captions(report):
    page = (report / "gallery.html").read_text()
    assert page.count("<article>") == page.count("data:image/jpeg;base64,") == 6
    assert "<script" not in page
    assert "onerror=" not in re.sub(r"&#34;&gt;&lt;img src=x onerror=&#34;", "", page)
    assert "\u202e" not in page
    assert "<s>tram" in page
    assert "dropped: refusal" in page
    assert page.count("Synthetic: images or models are simulated.") == 1


def test_gallery_runs_no_script_in_a_browser(report, start_browser):
    browser = start_browser("--window-size=1200,900")
    browser.get((report / "gallery.html").as_uri())
    assert browser.execute_script("return window.hacked") is None
    assert browser.execute_script(
        "return document.documentElement.scrollWidth <= window.innerWidth"
    )
    opened = browser.find_elements("css selector", "article > div > details[open]")
    chosen = browser.find_elements("css selector", ".badge.good")
    assert len(opened) == len(chosen) == 5
    assert not [one for one in browser.get_log("browser") if one["level"] == "SEVERE"]
