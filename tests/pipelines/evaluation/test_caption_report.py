import json

import pandas as pd
import pytest

from pipelines.evaluation.caption_report import (
    Captions,
    caption_blocks,
    truth_table,
    write_page,
)
from pipelines.evaluation.caption_truth import Truths
from tests.pipelines.evaluation.toy import CITY, build_toy

IMAGES = [f"tile-{index}" for index in range(16)]
THERE = frozenset({"open water", "park with lawns and trees", "terraced houses in unbroken rows"})
TRUTHS = Truths(dict.fromkeys(IMAGES, THERE))
OPENING = "A photo. It shows a place in a city on an ordinary day."


def named(text):
    return [(one.thing, one.true) for one in TRUTHS.mentions(text, IMAGES[0])]


def test_things_are_found_in_either_number_and_in_any_captioners_words():
    assert named("It has open water, and Terraced homes in unbroken row.") == [
        ("open water", True),
        ("terraced houses in unbroken rows", True),
    ]
    assert named("We see many round storage tanks and a swimming pool.") == [
        ("round storage tanks", False),
        ("swimming pools", False),
    ]


def test_rewording_goes_by_the_number_that_is_said():
    truths = Truths({"a": frozenset({"tree", "bench"})})
    text = "It has a great many bare greenery and a few wooden benchs."
    assert [(one.thing, one.true) for one in truths.mentions(text, "a")] == [
        ("tree", True),
        ("bench", True),
    ]


def test_words_that_only_look_alike_are_not_things():
    assert named("Taken with care, a tramp, openwater.") == []


def test_the_longest_words_count_once():
    assert named("A park with lawns and trees.") == [("park with lawns and trees", True)]


def test_a_part_of_what_is_there_is_not_false():
    truths = Truths({"a": frozenset({"sports fields with running tracks", "tree cover"}),
                     "b": frozenset({"tree"})})  # fmt: skip
    (one,) = truths.mentions("I see a tree.", "a")
    assert (one.thing, one.true) == ("tree", True)


def test_openings_state_nothing():
    assert named(f"{OPENING} It has open water.") == [("open water", True)]


def test_what_is_missed_is_told():
    assert TRUTHS.missed("It has open water.", IMAGES[0]) == [
        "park with lawns and trees",
        "terraced houses in unbroken rows",
    ]


# ---- the page -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def captions(tmp_path_factory):
    dataset = build_toy(tmp_path_factory.mktemp("captions") / "d", side=4, street_views=1)
    phrases = json.dumps(
        [
            {"text": "storage <tank>", "kept": False, "source": "caption"},
            {"text": "of a crop", "kept": False, "source": "local"},
            {"text": "open water", "kept": True, "source": "caption"},
        ]
    )
    rows = []
    for image_id in IMAGES:
        shared = {"image_id": image_id, "phrases": phrases, "drop_reason": None}
        first = "It has open water and round storage tanks. <script>alert(1)</script>"
        rows.append({**shared, "model": "one", "generated": first, "text": "It has open water.",
                     "score": 0.8, "kept": True, "chosen": True})  # fmt: skip
        other = "A park with lawns and trees."
        rows.append({**shared, "model": "two & three", "generated": other, "text": other,
                     "score": 0.4, "kept": True, "chosen": False})  # fmt: skip
        rows.append({**shared, "model": "lost", "generated": "Open water.", "text": "Open water.",
                     "score": None, "kept": False, "chosen": False})  # fmt: skip
    return Captions(dataset, CITY, True, pd.DataFrame(rows), TRUTHS)


def test_captions_are_counted_by_stage(captions):
    table = truth_table(captions)
    written, refined, chosen = ([cell.value for cell in row[1:]] for row in table.rows)
    # of two kept candidates: one of two things and none of one is false; a third of what is there
    assert written == pytest.approx([32, 25, 100 / 3, 1.5])
    assert refined == pytest.approx([32, 0, 100 / 3, 1])
    assert chosen == pytest.approx([16, 0, 100 / 3, 1])
    assert "synthetic" in table.title


def test_the_page_marks_escapes_and_holds_its_pictures(captions, tmp_path):
    write_page(tmp_path / "page.html", captions)
    page = (tmp_path / "page.html").read_text()
    assert page.count("<article>") == 2
    assert page.count('src="data:image/jpeg;base64,') == 2
    assert "<mark class='yes'>open water</mark>" in page
    assert "<mark class='no'>round storage tanks</mark>" in page
    assert "<del>storage &lt;tank&gt;</del>" in page
    assert "of a crop" not in page
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "two &amp; three, agreement 0.40" in page
    assert "lost, left out" in page
    assert page.index("one, agreement 0.80, chosen") < page.index("two &amp; three")
    assert "(synthetic)" in page
    assert "http" not in page.replace("http-equiv", "")


def test_nothing_is_marked_where_nothing_is_known(captions, tmp_path):
    unknown = Captions(captions.dataset, CITY, False, captions.table, None)
    assert truth_table(unknown) is None
    write_page(tmp_path / "page.html", unknown)
    page = (tmp_path / "page.html").read_text()
    assert "<mark" not in page
    assert "nothing is marked" in page


def test_a_run_without_captions_has_no_section(tmp_path):
    assert caption_blocks(tmp_path, tmp_path) == []
