import pytest

from pipelines.common.tokenizer import clip_tokenizer


@pytest.mark.parametrize(
    "text",
    [
        "A street with 3 tall buildings, trees; and a pavement.",
        "北京市中心的高楼和公园。",
        "naïve café 🏙️🚦 it's the city's centre",
        "",
    ],
)
def test_clip_tokenizer_gives_the_ids_of_open_clip(text):
    import open_clip

    reference = open_clip.tokenizer.SimpleTokenizer()
    ids = clip_tokenizer()(text)["input_ids"]
    assert ids == [reference.sot_token_id, *reference.encode(text), reference.eot_token_id]


def test_clip_tokenizer_cuts_at_its_length_and_keeps_the_end_token():
    tokenizer = clip_tokenizer(model_max_length=77)
    ids = tokenizer("house " * 10_000, truncation=True)["input_ids"]
    assert len(ids) == 77
    assert ids[0] == 49406
    assert ids[-1] == 49407
    assert len(clip_tokenizer()) == 49408
