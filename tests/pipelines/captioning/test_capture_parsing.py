import sys

import pytest

from pipelines.captioning import capture_parsing, grammar
from pipelines.captioning.capture import ParsedCaption
from pipelines.captioning.capture_parsing import (
    URBAN_STOP_WORDS,
    nouns_of,
    parsed_caption,
    parsing_revision,
    stop_words_of,
)
from pipelines.captioning.errors import CaptioningError, MissingDependencyError
from pipelines.captioning.records import SceneGraph

SENTENCES = ["Cars fill the road.", "The parking lots are large and full of men."]
GRAPHS = [
    SceneGraph(("Cars", "road"), (), (("Cars", "fill", "road"),)),
    SceneGraph(
        ("parking lots", "men"),
        (("parking lots", "Larger"), ("parking lots", "full of men")),
        (("men", "in", "parking lots"),),
    ),
]


def parse(sentences=SENTENCES, graphs=GRAPHS, **options):
    return parsed_caption(sentences, graphs, **options)


def test_parsed_caption_brings_words_to_their_base_forms():
    assert parse() == ParsedCaption(
        {"car", "road", "parking lot", "man"},
        {"parking lot": {"large"}},  # attributes with " of" are no words
        {("car", "fill", "road"), ("man", "in", "parking lot")},
    )


def test_parsed_caption_leaves_out_what_the_text_does_not_say():
    graph = SceneGraph(
        ("road", "ghost", "road ghost"),
        (("ghost", "pale"), ("road", "wide")),
        (("ghost", "on", "road"), ("road", "in", "ghost")),
    )
    assert parse(["The road is wide."], [graph]) == ParsedCaption({"road"}, {"road": {"wide"}})


def test_parsed_caption_takes_stop_words_off_objects_only():
    sentences = ["The image shows the facade of a building at an intersection."]
    graph = SceneGraph(
        ("image", "facade", "building", "intersection"),
        (("image", "clear"),),
        (("image", "show", "facade"),),
    )
    found = {name: parse(sentences, [graph], stop_words=name) for name in ("urban", "none")}
    assert found["urban"].objects == {"facade", "building", "intersection"}
    assert found["none"].objects == {"image", "facade", "building", "intersection"}
    for one in found.values():
        assert one.attributes == {"image": {"clear"}}
        assert one.relations == {("image", "show", "facade")}


def test_parsed_caption_of_nothing_says_nothing():
    assert not parse([], [])
    assert not parse([""], [SceneGraph(("",))])


def test_nouns_of_are_common_and_proper():
    assert nouns_of(["Tall buildings stand near Main Street.", "They shine."]) == [
        "buildings",
        "Main",
        "Street",
    ]


def test_parsing_revision_names_rules_and_tagger():
    assert capture_parsing.RULES_VERSION in parsing_revision()
    assert "core_web_sm" in parsing_revision()


def test_nouns_of_says_what_to_install(monkeypatch):
    grammar._language.cache_clear()
    for name in grammar.MODELS:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingDependencyError, match=r"\[captioning\].*spacy download"):
        nouns_of(["A road."])


# ---- stop words ---------------------------------------------------------------------------------


def test_urban_stop_words_leave_what_cities_are_made_of():
    kept = "facade cityscape architecture structure area place terrain intersection traffic row "
    kept += "infrastructure neighborhood entrance layout field track site marking urban tall space"
    assert URBAN_STOP_WORDS.isdisjoint(kept.split())
    assert {"image", "background", "atmosphere", "variety"} <= stop_words_of("urban")


def test_reference_stop_words_are_read_from_its_package_without_import(tmp_path, monkeypatch):
    package = tmp_path / "capture_metric"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "stop_words.py").write_text("stop_words_list = ['scene', 'facade']\n")
    monkeypatch.syspath_prepend(tmp_path)
    stop_words_of.cache_clear()
    assert stop_words_of("reference") == {"scene", "facade"}
    stop_words_of.cache_clear()


def test_stop_words_says_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "capture_metric", None)
    stop_words_of.cache_clear()
    with pytest.raises(MissingDependencyError, match=r"pip install --no-deps capture-metric"):
        stop_words_of("reference")
    with pytest.raises(CaptioningError, match="Unknown stop words 'rural'"):
        stop_words_of("rural")
