import io

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.captioning.detectors import Owlv2Detector
from pipelines.captioning.records import SourceImage
from pipelines.common.tokenizer import clip_tokenizer

SIZE = {"height": 64, "width": 64}
PHRASES = ["car", "a red car", "trees along the street", "zebra crossing"]
LONG = "a very long phrase that goes on and on about one red car by the side of the road"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """OWLv2's architecture with tiny random weights."""
    from transformers import (
        Owlv2Config,
        Owlv2ForObjectDetection,
        Owlv2ImageProcessor,
        Owlv2Processor,
    )

    tower = {"hidden_size": 32, "intermediate_size": 64}
    tower |= {"num_hidden_layers": 2, "num_attention_heads": 4}
    config = Owlv2Config(
        text_config={**tower, "max_position_embeddings": 16},
        vision_config={**tower, "image_size": 64, "patch_size": 16},
        projection_dim=32,
    )
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("owlv2")
    Owlv2ForObjectDetection(config).save_pretrained(folder)
    Owlv2Processor(Owlv2ImageProcessor(size=SIZE), clip_tokenizer(16)).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def source():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 90, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return SourceImage("i", "street_view", "sha", buffer.getvalue())


def test_scores_equal_those_of_transformers(checkpoint, source):
    detector = Owlv2Detector(checkpoint, device="cpu")
    found = detector.detect(source, PHRASES)
    model, processor = detector._model, detector._processor
    image = Image.open(io.BytesIO(source.data))
    inputs = processor(text=[PHRASES], images=image, return_tensors="pt")
    with torch.no_grad():
        output = model(**inputs)
    assert output.logits.shape == (1, 16, 4)
    expected = torch.sigmoid(output.logits[0]).amax(dim=0).numpy()
    assert np.abs(found - expected).max() < 1e-5


def test_encoders_run_once_per_image_and_once_per_phrase(checkpoint, source, monkeypatch):
    detector = Owlv2Detector(checkpoint, device="cpu")
    calls = {"image": 0, "texts": 0}
    vision, text = detector._model.owlv2.vision_model, detector._model.owlv2.text_model
    vision.register_forward_hook(lambda *_: calls.update(image=calls["image"] + 1))
    text.register_forward_pre_hook(
        lambda _, args, kwargs: calls.update(
            texts=calls["texts"] + len(set(map(tuple, kwargs["input_ids"].tolist())))
        ),
        with_kwargs=True,
    )
    many = [f"thing {n}" for n in range(20)]
    first = detector.detect(source, many)
    assert calls == {"image": 1, "texts": 20}
    again = detector.detect(source, [*many[10:], "new"])
    assert calls == {"image": 2, "texts": 21}
    assert np.array_equal(again[:10], first[10:])  # in any batch


def test_does_not_score_phrases_that_are_too_long(checkpoint, source):
    detector = Owlv2Detector(checkpoint, device="cpu")
    assert np.isnan(detector.detect(source, ["car", LONG, "bus"])).tolist() == [False, True, False]
    assert detector.detect(source, []).shape == (0,)
