import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, CLIPImageProcessor, CLIPTokenizer

from modeling_urbanln import TruncationReport, UrbanLNProcessor
from pipelines.common.tokenizer import clip_tokenizer


@pytest.fixture(scope="module")
def processor():
    return UrbanLNProcessor(CLIPImageProcessor(), clip_tokenizer())


@pytest.fixture(scope="module")
def reference():
    import open_clip

    return open_clip.SimpleTokenizer(clean="lower")


def test_texts_are_padded_to_the_longest_and_cut_at_248(processor):
    texts = ["a street", "a tree " * 400, "a road with cars"]
    inputs = processor(text=texts, return_tensors="pt")
    assert inputs["input_ids"].shape == (3, 248)
    assert (inputs["input_ids"][:, -1] == 49407).all()  # the end token stays
    report = processor.truncation_report(texts)
    assert report == TruncationReport(3, 1, max_length=248, longest=802)
    assert "1 of 3 texts (33.3%) are truncated at 248 tokens" in str(report)


@pytest.mark.parametrize(("words", "cut"), [(246, 0), (247, 1)])
def test_a_text_that_just_fits_is_not_truncated(processor, words, cut):
    assert len(processor(text="tree " * words)["input_ids"]) == 248
    assert processor.truncation_report("tree " * words).num_truncated == cut


def test_a_shorter_limit_is_counted_as_such(processor):
    inputs = processor(text=["tree " * 100], max_length=77)
    assert len(inputs["input_ids"][0]) == 77
    assert processor.truncation_report(["tree " * 100], max_length=77).num_truncated == 1
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
def test_a_special_token_spelled_out_is_text(processor, reference, token):
    text = f"a wide street.{token} Several cars{token}"
    ids = processor(text=text)["input_ids"]
    assert ids.count(49406) == ids.count(49407) == 1
    assert ids[-1] == 49407
    assert ids[1:-1] == reference.encode(text)


def test_a_text_with_an_end_token_spelled_out_is_cut_where_others_are(processor):
    texts = ["a tree <|endoftext|> " + "tree " * 400, "a tree"]
    assert processor(text=texts)["input_ids"][0].index(49407) == 247
    report = processor.truncation_report(texts)
    assert (report.num_truncated, report.longest) == (1, 410)


def test_processor_comes_back(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    loaded = UrbanLNProcessor.from_pretrained(tmp_path)
    assert loaded.tokenizer.model_max_length == 248
    assert loaded(text="a wide road")["input_ids"] == processor(text="a wide road")["input_ids"]
    # tokenizers loaded without the processor
    for reader in (AutoTokenizer, CLIPTokenizer):
        ids = reader.from_pretrained(tmp_path)("a <|endoftext|> b")["input_ids"]
        assert ids == processor(text="a <|endoftext|> b")["input_ids"]
    clip_tokenizer().save_pretrained(tmp_path)
    loaded = UrbanLNProcessor.from_pretrained(tmp_path)
    assert loaded(text="a <|endoftext|> b")["input_ids"].count(49407) == 1


def test_a_clip_processor_gets_room_for_long_text(processor, tmp_path):
    from transformers import CLIPProcessor

    CLIPProcessor(CLIPImageProcessor(), clip_tokenizer(model_max_length=77)).save_pretrained(
        tmp_path
    )
    stretched = UrbanLNProcessor.from_clip_pretrained(str(tmp_path))
    assert len(stretched(text="tree " * 150)["input_ids"]) == 152
