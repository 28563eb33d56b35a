"""GeoCLIP's location encoder with the trained weights of the optional package `geoclip`."""

import sys

import numpy as np
import pytest
import torch

from pipelines.common.encoders import geoclip
from pipelines.common.errors import InputError

PLACES = np.array([[116.4, 39.9], [-74.0, 40.7], [0.0, 0.0], [151.2, -33.9], [-179.9, 89.0]])


def test_equals_the_published_package():
    published = pytest.importorskip("geoclip.model.location_encoder").LocationEncoder().eval()
    vectors, fingerprint = geoclip.encode_places(*PLACES.T)
    with torch.inference_mode():
        expected = published(torch.tensor(PLACES[:, ::-1].copy(), dtype=torch.float32)).numpy()
    assert vectors.shape == (5, 512)
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    assert np.abs(vectors[0] - vectors[1]).max() > 0.01
    assert len(fingerprint) == 16


def test_rejects_missing_and_altered_weights(tmp_path, monkeypatch):
    weights = tmp_path / "geoclip" / "model" / "weights" / "location_encoder_weights.pth"
    weights.parent.mkdir(parents=True)
    (tmp_path / "geoclip" / "__init__.py").write_text("raise RuntimeError('the code is run')")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    # the real package may be imported already
    monkeypatch.delitem(sys.modules, "geoclip", raising=False)
    with pytest.raises(InputError, match=r"needs the optional extra `geoclip`"):
        geoclip.load_location_encoder()
    weights.write_bytes(b"other weights")
    with pytest.raises(InputError, match=r"has the SHA-256 .* not 94b80ae3.*Reinstall it"):
        geoclip.load_location_encoder()
