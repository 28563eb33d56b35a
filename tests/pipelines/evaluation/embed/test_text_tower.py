import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from modeling_urbanln import UrbanLNProcessor
from pipelines.common.encoders.transformers_models import load_model_encoder
from pipelines.evaluation.embed.text_tower import cached_vectors, load_text_tower
from pipelines.evaluation.errors import InputError

TEXTS = ["a railway", "old low-rise housing beside a railway", "parks " * 300, "a railway"]


@pytest.fixture(scope="module")
def tower(tiny_model_dir):
    return load_text_tower(str(tiny_model_dir))


def test_vectors_are_those_of_the_model(tower, tiny_model_dir):
    processor = UrbanLNProcessor.from_pretrained(tiny_model_dir)
    with torch.inference_mode():
        inputs = processor(text=TEXTS, return_tensors="pt")
        wanted = tower.model.get_text_features(**inputs).pooler_output.numpy()
    np.testing.assert_allclose(tower.encode(TEXTS), wanted, atol=1e-5)


def test_vectors_do_not_depend_on_batches(tower):
    whole = tower.encode(TEXTS, batch_size=64)
    np.testing.assert_allclose(tower.encode(TEXTS, batch_size=1), whole, atol=1e-5)
    np.testing.assert_array_equal(whole[0], whole[3])


def test_texts_of_a_siglip_are_padded_as_it_was_trained(tiny_siglip_dir):
    tower = load_text_tower(str(tiny_siglip_dir))
    texts = ["a railway", "parks and old houses"]
    with torch.inference_mode():
        ids = tower.tokenizer(texts, padding="max_length", max_length=64, return_tensors="pt")
        wanted = tower.model.get_text_features(input_ids=ids["input_ids"]).pooler_output
    np.testing.assert_allclose(tower.encode(texts), wanted.numpy(), atol=1e-5)
    np.testing.assert_allclose(tower.encode(texts[:1]), wanted[:1].numpy(), atol=1e-5)


def test_texts_that_are_cut_are_counted(tower):
    assert tower.max_length == 248
    assert tower.count_truncated(TEXTS) == 1


def test_no_text_is_an_error(tower):
    with pytest.raises(InputError, match="no text to encode"):
        tower.encode([])


def test_vectors_are_read_again_for_the_same_texts_only(tower, tmp_path, monkeypatch):
    first = cached_vectors(tmp_path, tower, TEXTS)
    other = cached_vectors(tmp_path, tower, TEXTS[:2])
    assert len(other) == 2
    monkeypatch.setattr(type(tower), "encode", None)
    np.testing.assert_array_equal(cached_vectors(tmp_path, tower, TEXTS), first)


def test_drawn_weights_are_those_of_the_image_encoder_with_the_seed(tiny_model_dir):
    drawn = load_text_tower(str(tiny_model_dir), random_init=True, seed=3)
    images = load_model_encoder(str(tiny_model_dir), random_init=True, seed=3)
    for name, value in images.model.state_dict().items():
        assert torch.equal(value, drawn.model.state_dict()[name]), name
    assert drawn.random_init
    assert drawn.fingerprint != load_text_tower(str(tiny_model_dir)).fingerprint


def test_a_checkpoint_without_its_text_side_is_refused(tiny_model_dir, tmp_path):
    for path in tiny_model_dir.iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    kept = {name: value for name, value in weights.items() if not name.startswith("text_model.")}
    save_file(kept, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match="weights of the text encoder"):
        load_text_tower(str(tmp_path))
    with pytest.raises(InputError, match="No usable checkpoint"):
        load_text_tower(str(tmp_path / "nowhere"))
