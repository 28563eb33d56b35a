from pipelines.captioning.capture import ParsedCaption
from pipelines.captioning.capture_parsing import parsed_caption
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


def test_reduces_words_to_base_forms():
    assert parsed_caption(SENTENCES, GRAPHS) == ParsedCaption(
        {"car", "road", "parking lot", "man"},
        {"parking lot": {"large"}},  # attributes with " of" are dropped
        {("car", "fill", "road"), ("man", "in", "parking lot")},
    )
    assert not parsed_caption([""], [SceneGraph(("",))])


def test_drops_stop_words_and_objects_not_in_the_text():
    graph = SceneGraph(
        ("road", "ghost", "road ghost", "image"),  # the last is a stop word
        (("ghost", "pale"), ("road", "wide")),
        (("ghost", "on", "road"), ("road", "in", "ghost")),
    )
    found = parsed_caption(["The image shows that the road is wide."], [graph])
    assert found == ParsedCaption({"road"}, {"road": {"wide"}})
