import io

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, pipeline

import modeling_urbanln  # noqa: F401 - registers the task

from ..dataset_builders.provider import CityProvider

TASK = "urban-region-feature-extraction"
SHAPES = [(64, 48), (30, 30), (40, 90), (128, 64), (33, 31)]


def image(seed):
    width, height = SHAPES[seed % len(SHAPES)]
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def encoded(seed, form="PNG"):
    buffer = io.BytesIO()
    image(seed).save(buffer, form)
    return buffer.getvalue()


@pytest.fixture
def regions(tiny_model_dir):
    return pipeline(TASK, model=str(tiny_model_dir), trust_remote_code=True)


@pytest.fixture
def by_hand(tiny_model_dir):
    """Embeddings of single images, by the model and processor of the folder."""
    model = AutoModel.from_pretrained(tiny_model_dir).eval()
    processor = AutoImageProcessor.from_pretrained(tiny_model_dir)

    def vectors(*seeds):
        inputs = [processor(images=image(seed), return_tensors="pt") for seed in seeds]
        with torch.no_grad():
            return [model.get_image_features(**one).pooler_output[0].numpy() for one in inputs]

    return vectors


def close(one, other):
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_image_can_be_given_in_any_form(regions, by_hand, tmp_path):
    (expected,) = by_hand(0)
    path = tmp_path / "a.png"
    image(0).save(path)
    data = path.read_bytes()
    for given in (image(0), data, str(path), path, {"bytes": data, "path": None}):
        close(regions(given), expected)
    assert isinstance(regions(image(0), return_type="torch"), torch.Tensor)


def test_downloads_images(regions):
    with CityProvider() as server:
        vector = regions(f"{server.url}/tiles/1/2/3.jpg")
        with pytest.raises(ValueError, match="Not an image"):
            regions(f"{server.url}/nothing/here")
        server.shutdown()
    assert vector.ndim == 1


@pytest.mark.parametrize("batch_size", [1, 3])
def test_region_is_the_mean_of_its_views(regions, by_hand, batch_size):
    many = [
        {
            "region_id": f"r{n}",
            "street_view": [image(n + k) for k in range(n % 3)],
            "satellite": image(10 + n),
        }
        for n in range(4)
    ]
    for n, out in enumerate(regions(many, batch_size=batch_size)):
        close(out["satellite"], by_hand(10 + n)[0])
        assert (out["region_id"], out["n_street_views"], out["n_satellite"]) == (f"r{n}", n % 3, 1)
        if n % 3:
            close(out["street_view"], np.mean(by_hand(*range(n, n + n % 3)), axis=0))
        else:
            assert out["street_view"] is None

    table = pd.DataFrame(regions(many, return_type="table"))
    assert list(table) == ["region_id", "n_street_views", "n_satellite", "street_view", "satellite"]
    close(table["satellite"][1], by_hand(11)[0])
    with pytest.raises(ValueError, match="needs regions"):
        regions(image(0), return_type="table")


@pytest.mark.parametrize("streaming", [False, True])
def test_dataset_is_averaged_by_region(regions, by_hand, streaming):
    # the images of a region do not lie side by side
    owners = ["a", "b", "a", "c", "b", "a"]
    rows = {
        "image": [image(n) for n in range(6)],
        "region_id": owners,
        "heading": [0.0] * 6,
    }
    features = datasets.Features(
        {"image": datasets.Image(), "region_id": datasets.Value("string"),
         "heading": datasets.Value("float64")}
    )  # fmt: skip
    table = datasets.Dataset.from_dict(rows, features=features)
    out = regions(table.to_iterable_dataset() if streaming else table, batch_size=4)
    assert out["region_id"] == ["a", "b", "c"]
    assert out["n_street_views"] == [3, 2, 1]
    for number, name in enumerate(out["region_id"]):
        mine = [n for n, owner in enumerate(owners) if owner == name]
        close(out["street_view"][number], np.mean(by_hand(*mine), axis=0))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("no such file.jpg", "Not an image: 'no such file.jpg'"),
        (b"<html>an error page</html>", "bytes that start with"),
        (encoded(0)[:200], "Not an image"),
        (b"", "0 bytes"),
        (Image.new("RGB", (0, 5)), "0 x 5 pixels"),
        ("http://127.0.0.1:9/a.jpg", "Not an image: 'http://127.0.0.1:9/a.jpg'"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", "Not an image"),
        ({"bytes": None, "path": "/etc/hostname"}, "a path but no bytes"),
        ({"image": image(0), "region_id": "r", "heading": 0.0}, "pass the dataset"),
        (7, "an object of type int"),
        ({"street_view": []}, "at least one image"),
        ({"streetview": ["a.jpg"]}, "streetview"),
        ([], "empty list"),
    ],
)  # fmt: skip
def test_rejects_other_inputs(regions, given, message):
    with pytest.raises(ValueError, match=message):
        regions(given)


def test_rejects_decompression_bombs(regions, tmp_path):
    path = tmp_path / "large.png"
    Image.new("1", (20_000, 10_000)).save(path)
    with pytest.raises(ValueError, match="at most 80,000,000 pixels"):
        regions(str(path))
