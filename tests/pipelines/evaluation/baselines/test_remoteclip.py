from dataclasses import replace

import numpy as np
import open_clip
import pytest
import torch
from open_clip import CLIPTextCfg, CLIPVisionCfg
from open_clip.model import CLIP
from PIL import Image
from transformers import CLIPImageProcessor, ViTConfig, ViTModel

from pipelines.evaluation.baselines.remoteclip import RemoteCLIP, Settings
from pipelines.evaluation.errors import InputError
from pipelines.release.convert import convert_checkpoint

from .toy_pairs import toy_city

TINY = Settings(image_size=16, patch_size=8, width=32, layers=1, head_width=16, projection_dim=24)


def test_vectors_of_a_converted_checkpoint_are_the_means_of_open_clips(tmp_path):
    torch.manual_seed(0)
    theirs = CLIP(
        embed_dim=20,
        vision_cfg=CLIPVisionCfg(layers=1, width=64, patch_size=8, image_size=32),
        text_cfg=CLIPTextCfg(width=64, heads=1, layers=1),
    ).eval()
    torch.save(theirs.state_dict(), tmp_path / "RemoteCLIP-tiny.pt")
    convert_checkpoint(tmp_path / "RemoteCLIP-tiny.pt", tmp_path / "converted", hidden_act="gelu")
    data = toy_city(5, views=2)
    settings = Settings(model_name_or_path=str(tmp_path / "converted"), image_size=32)
    system = RemoteCLIP(settings, 0, "cpu")

    system.fit(data)
    vectors = system.encode(data)

    assert system.name == "remoteclip"
    assert system.provenance.pretrained == str(tmp_path / "converted")
    assert set(vectors) == {"satellite", "street_view"}
    preprocess = open_clip.image_transform(32, is_train=False)
    street = data.views["street_view"]
    with torch.no_grad():
        features = theirs.encode_image(
            torch.stack([preprocess(Image.fromarray(pixels)) for pixels in street.pixels])
        )
    expected = features.reshape(5, 2, -1).mean(dim=1).numpy()
    np.testing.assert_allclose(vectors["street_view"], expected, atol=1e-4)

    blown_up = RemoteCLIP(replace(settings, image_size=16), 0, "cpu")
    with pytest.raises(InputError, match=r"sees images of 32 pixels.*image_size=32"):
        blown_up.encode(data)


def test_a_model_without_a_text_side_is_no_clip(tmp_path):
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        image_size=16, patch_size=8,
    )  # fmt: skip
    ViTModel(config).save_pretrained(tmp_path)
    CLIPImageProcessor(size={"height": 16, "width": 16}, do_center_crop=False).save_pretrained(
        tmp_path
    )
    system = RemoteCLIP(Settings(model_name_or_path=str(tmp_path), image_size=16), 0, "cpu")
    with pytest.raises(InputError, match=r"ViTModel, not an image-text model.*embed --encoder"):
        system.encode(toy_city(3))


def test_fingerprint_follows_the_weights_and_not_the_name_of_their_folder(tmp_path):
    def system() -> RemoteCLIP:
        return RemoteCLIP(Settings(model_name_or_path=str(tmp_path)), 0, "cpu")

    (tmp_path / "model.safetensors").write_bytes(b"weights")
    first = system().fingerprint
    assert system().fingerprint == first
    assert RemoteCLIP(system().settings, 1, "cpu").fingerprint == first, "nothing is drawn"
    (tmp_path / "model.safetensors").write_bytes(b"Weights")
    assert system().fingerprint != first


def test_without_weights_the_name_and_the_provenance_say_so():
    data = toy_city(6)
    system = RemoteCLIP(TINY, 0, "cpu")
    vectors = system.encode(data)
    assert system.name == "remoteclip-random-weights"
    assert system.provenance.pretrained is None
    assert "random weights" in system.provenance.differs[0]
    assert vectors["satellite"].shape == (6, 24)
    again, other = (RemoteCLIP(TINY, seed, "cpu").encode(data)["satellite"] for seed in (0, 1))
    np.testing.assert_array_equal(vectors["satellite"], again)
    assert np.abs(vectors["satellite"] - other).max() > 1e-3


def test_regions_without_an_image_are_nan():
    data = toy_city(6)
    view = data.views["satellite"]
    shifted = replace(view, region=np.array([1, 1, 2, 3, 4, 5]))
    vectors = RemoteCLIP(TINY, 0, "cpu").encode(replace(data, views={"satellite": shifted}))
    assert set(vectors) == {"satellite"}
    assert np.isnan(vectors["satellite"][0]).all()
    assert np.isfinite(vectors["satellite"][1:]).all()


def test_a_checkpoint_that_is_not_there_is_an_error(tmp_path):
    system = RemoteCLIP(Settings(model_name_or_path=str(tmp_path / "none")), 0, "cpu")
    with pytest.raises(InputError, match="No usable checkpoint"):
        system.encode(toy_city(2))
