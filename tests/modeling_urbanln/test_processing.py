import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, CLIPImageProcessor

from modeling_urbanln import TruncationReport, UrbanLNProcessor
from pipelines.common.tokenizer import clip_tokenizer


@pytest.fixture(scope="module")
def processor():
    return UrbanLNProcessor(CLIPImageProcessor(), clip_tokenizer())


@pytest.fixture(scope="module")
def reference():
    import open_clip

    return open_clip.SimpleTokenizer(clean="lower")


def test_pads_to_the_longest_text_and_truncates_at_248(processor):
    texts = ["a street", "a tree " * 400, "a road with cars"]
    inputs = processor(text=texts, return_tensors="pt")
    assert inputs["input_ids"].shape == (3, 248)
    assert (inputs["input_ids"][:, -1] == 49407).all()  # the end token stays
    report = processor.truncation_report(texts)
    assert report == TruncationReport(3, 1, max_length=248, longest=802)
    assert "1 of 3 texts (33.3%) are truncated at 248 tokens" in str(report)


@pytest.mark.parametrize(("words", "limit", "cut"), [(246, 248, 0), (247, 248, 1), (100, 77, 1)])
def test_reports_truncation_at_the_limit(processor, words, limit, cut):
    text = "tree " * words
    assert len(processor(text=text, max_length=limit)["input_ids"]) == limit
    assert processor.truncation_report(text, max_length=limit).num_truncated == cut
    assert processor.truncation_report([]).rate == 0.0


PLAIN_TEXT = st.text(st.characters(codec="ascii", categories=("L", "N", "P", "S")))
SAMPLES = [
    "A wide road, lined with plane trees.",
    "街道两旁是高楼",
    "café 🚗🌳 naïve",
    "the city’s park",
    "it&#39;s &amp;amp; more",
    "the oﬃce of schÃ¶n",
    "a “quoted” ｗｉｄｅ street",
]


@settings(max_examples=60, deadline=None)
@given(words=st.lists(st.one_of(PLAIN_TEXT, st.sampled_from(SAMPLES)), max_size=8))
def test_token_ids_equal_open_clips(processor, reference, words):
    text = " ".join(words)
    expected = reference(text, context_length=248)[0].tolist()
    got = processor(text=[text])["input_ids"][0]
    assert got == expected[: len(got)]
    assert not any(expected[len(got) :])


@pytest.mark.parametrize("token", ["<|endoftext|>", "<|startoftext|>", "<|EndOfText|>"])
def test_spelled_out_special_token_is_text(processor, reference, token):
    text = f"a wide street.{token} Several cars{token}"
    ids = processor(text=text)["input_ids"]
    assert ids.count(49406) == ids.count(49407) == 1
    assert ids[-1] == 49407
    assert ids[1:-1] == reference.encode(text)


def test_loads_as_saved(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    loaded = UrbanLNProcessor.from_pretrained(tmp_path)
    assert loaded.tokenizer.model_max_length == 248
    expected = processor(text="a <|endoftext|> b")["input_ids"]
    # also tokenizers loaded without the processor
    for one in (loaded.tokenizer, AutoTokenizer.from_pretrained(tmp_path)):
        assert one("a <|endoftext|> b")["input_ids"] == expected


def test_clip_checkpoints_get_248_tokens(tmp_path):
    clip_tokenizer(model_max_length=77).save_pretrained(tmp_path)
    CLIPImageProcessor().save_pretrained(tmp_path)
    stretched = UrbanLNProcessor.from_clip_pretrained(str(tmp_path))
    assert len(stretched(text="tree " * 150)["input_ids"]) == 152
    assert stretched(text="a <|endoftext|> b")["input_ids"].count(49407) == 1
