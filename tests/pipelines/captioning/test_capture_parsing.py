from pipelines.captioning.capture import ParsedCaption
from pipelines.captioning.capture_parsing import URBAN_STOP_WORDS, nouns_of, parsed_caption
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


def test_parsed_caption_reduces_words_to_base_forms():
    assert parse() == ParsedCaption(
        {"car", "road", "parking lot", "man"},
        {"parking lot": {"large"}},  # attributes with " of" are dropped
        {("car", "fill", "road"), ("man", "in", "parking lot")},
    )


def test_parsed_caption_drops_objects_not_in_the_text():
    graph = SceneGraph(
        ("road", "ghost", "road ghost"),
        (("ghost", "pale"), ("road", "wide")),
        (("ghost", "on", "road"), ("road", "in", "ghost")),
    )
    assert parse(["The road is wide."], [graph]) == ParsedCaption({"road"}, {"road": {"wide"}})


def test_parsed_caption_removes_stop_words_from_objects_only():
    sentences = ["The image shows the facade of a building at an intersection."]
    graph = SceneGraph(
        ("image", "facade", "building", "intersection"),
        (("image", "clear"),),
        (("image", "show", "facade"),),
    )
    urban, every = parse(sentences, [graph]), parse(sentences, [graph], stop_words=())
    assert urban.objects == {"facade", "building", "intersection"}
    assert every.objects == {"image", "facade", "building", "intersection"}
    for one in (urban, every):
        assert one.attributes == {"image": {"clear"}}
        assert one.relations == {("image", "show", "facade")}


def test_parsed_caption_of_an_empty_text_is_empty():
    assert not parse([], [])
    assert not parse([""], [SceneGraph(("",))])


def test_nouns_of_includes_common_and_proper_nouns():
    assert nouns_of(["Tall buildings stand near Main Street.", "They shine."]) == [
        "buildings",
        "Main",
        "Street",
    ]


# ---- stop words ---------------------------------------------------------------------------------


def test_urban_stop_words_keep_terms_of_the_built_environment():
    kept = "facade cityscape architecture structure area place terrain intersection traffic row "
    kept += "infrastructure neighborhood entrance layout field track site marking urban tall space"
    assert URBAN_STOP_WORDS.isdisjoint(kept.split())
    assert {"image", "background", "atmosphere", "variety"} <= URBAN_STOP_WORDS
