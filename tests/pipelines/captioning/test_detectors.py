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


def test_scores_do_not_depend_on_other_phrases(checkpoint, source):
    one, other = (Owlv2Detector(checkpoint, device="cpu") for _ in range(2))
    for phrase in PHRASES:
        one.detect(source, [phrase])
    many = [*PHRASES, LONG, *(f"thing {n}" for n in range(20))]
    found = other.detect(source, many)
    assert np.array_equal(one.detect(source, many), found, equal_nan=True)
    assert np.flatnonzero(np.isnan(found)).tolist() == [4]  # too long for the model
    assert one.detect(source, []).shape == (0,)


def test_scores_in_half_precision(checkpoint, source):
    detector = Owlv2Detector(checkpoint, device="cpu")
    detector._model.bfloat16()
    assert np.isfinite(detector.detect(source, PHRASES)).all()
