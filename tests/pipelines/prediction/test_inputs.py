"""Regions, labels and images from files of other programs, and invalid arguments."""

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio

from pipelines.common.errors import InputError
from pipelines.prediction.inputs import from_files
from pipelines.prediction.predict import predict
from pipelines.prediction.vectors import Vectors
from tests.pipelines.prediction.conftest import CRS, ORIGIN, SIDE
from tests.pipelines.prediction.test_predict import run
from tests.pipelines.prediction.test_predict_new import grid


def read(town, regions=None, labels=None):
    """Labels by region id, and notes."""
    regions = town.frame if regions is None else regions
    inputs = from_files(
        town.photos, {"height": "m"}, regions=regions, region_id="tract", labels=labels
    )
    raw = inputs.indicators[0].raw
    return dict(zip(inputs.regions["region_id"], raw, strict=True)), list(inputs.notes)


def test_ids_are_equal_as_integers_decimals_and_text(town):
    numbers = np.arange(len(town.frame))
    whole = pd.Series(numbers, dtype="Int64")
    kinds = [numbers, numbers.astype(float), whole, [f" {k} " for k in numbers]]
    expected = dict(zip(map(str, numbers), town.frame["height"], strict=True))
    for of_regions, of_labels in zip(kinds, kinds[1:] + kinds[:1], strict=True):
        labels = pd.DataFrame({"tract": of_labels, "height": town.frame["height"]})
        found, notes = read(town, town.frame.assign(tract=of_regions), labels)
        assert found.keys() == expected.keys()
        np.testing.assert_equal([found[name] for name in expected], list(expected.values()))
        assert not notes


def test_counts_labels_without_a_region(town, tmp_path):
    labels = town.frame[["tract", "height"]].copy()
    labels.loc[:4, "tract"] = [f"x{k}" for k in range(5)]
    labels.loc[5:6, "tract"] = None
    labels.to_csv(tmp_path / "labels.csv", index=False)
    found, notes = read(town, labels=tmp_path / "labels.csv")
    assert np.isnan([found[f"t{k:04d}"] for k in range(7)]).all()
    assert notes == [
        "2 rows of labels have no 'tract'.",
        "5 of 167 rows of labels match no region, such as x0, x1, x2.",
    ]
    listing = pd.read_csv(town.photos / "photos.csv").assign(height=town.values)
    listing.loc[:2, "lat"] += 3
    assert read(town, labels=listing)[1] == ["3 of 169 labelled points lie in no region."]


def test_reads_geoparquet_and_counts_missing_photos(town, tmp_path):
    path = tmp_path / "regions.PARQUET"
    town.frame.to_parquet(path)
    found, _ = read(town, path, path)
    np.testing.assert_array_equal(list(found.values()), town.frame["height"])
    listing = pd.read_csv(town.photos / "photos.csv")
    listing["file"] = [str(town.photos / name) for name in listing["file"]]
    listing.loc[:1, "file"] = ["a" * 400, "a\0b"]
    inputs = from_files(listing, {"height": "m"}, regions=town.frame, region_id="tract")
    assert [one.reason for one in inputs.rejects] == ["missing", "missing"]


def twice(frame):
    """The frame with a second column `height`."""
    table = pd.concat([pd.DataFrame(frame), pd.DataFrame(frame)[["height"]]], axis=1)
    return gpd.GeoDataFrame(table, geometry="geometry", crs=frame.crs)


POINTS = pd.DataFrame({"lon": ["?"], "lat": ["?"], "height": [1]})
LONGITUDES = pd.DataFrame([["a", 1.0, 2.0, 3.0]], columns=["file", "lon", "lat", "lon"])
MATCHES_NOTHING = pd.DataFrame({"tract": [1, 2], "height": [5, 6]})
SEVERAL = pd.DataFrame({"tract": ["t0001", "t0001"], "height": [5, 6]})
WRONG_REGIONS = {
    "no CRS": lambda frame: frame.set_crs(None, allow_override=True),
    "duplicate ids": lambda frame: frame.assign(tract="same"),
    "overlap": lambda frame: frame.assign(geometry=frame.buffer(100)),
    "are not numbers": lambda frame: frame.assign(height="tall"),
    "'height' has dtype datetime64": lambda frame: frame.assign(height=pd.Timestamp("2020")),
    "None of 169 images lies in a region|cannot be assigned to regions": lambda frame: (
        frame.set_crs("EPSG:32617", allow_override=True)
    ),
    "several columns height": twice,
    "a file or a GeoDataFrame, got a DataFrame": pd.DataFrame,
    "has no geometry": lambda frame: gpd.GeoDataFrame({"tract": ["a"]}),
}


@pytest.mark.parametrize("said", WRONG_REGIONS)
def test_rejects_invalid_regions(town, said):
    with pytest.raises(InputError, match=said):
        run(town, regions=WRONG_REGIONS[said](town.frame))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"region_id": "geoid"}, "got 'geoid'.*tract"),
        ({"indicators": {"height": ""}}, "unit of height is missing"),
        ({"indicators": {}}, "--indicator is missing"),
        ({"indicators": {"heigth": "m"}}, "Did you mean 'height'"),
        ({"indicators": {"height": "m", "height_low": "m"}}, "duplicate columns height_low"),
        ({"indicators": {"FID": "m"}}, "duplicate columns FID"),
        ({"side_m": 500.0}, "one of --regions.*got 2 of them"),
        ({"regions": "none.gpkg"}, "no file of polygons"),
        ({"images": "none"}, "no folder of images"),
        ({"images": LONGITUDES}, "several columns lon"),
        ({"labels": {"t0000": 5}}, "got a dict"),
        ({"labels": POINTS}, "No row of The table of labels has coordinates"),
        ({"labels": MATCHES_NOTHING}, "No id of 'tract'.*1, 2 versus t0000"),
        ({"labels": SEVERAL}, "several rows for 1 ids.*t0001"),
        ({"city": "bern"}, "--city bern is for data"),
        ({"protocol": "blocks", "block_m": -5.0, "seed": -1}, "'blocks'.*got -5.0.*seed must be"),
    ],
)
def test_rejects_invalid_arguments(town, changed, said):
    with pytest.raises(InputError, match=said):
        run(town, **changed)


def test_rejects_labels_that_do_not_suit_the_scale_regions_or_format(town, tmp_path):
    frame = town.frame.assign(height=town.frame["height"] - 20)
    with pytest.raises(InputError, match="negative labels"):
        run(town, regions=frame, transform="ln1p")
    with pytest.raises(InputError, match="Pass points or a raster"):
        run(town, regions=None, region_id=None, side_m=500.0, labels=town.frame)
    (tmp_path / "labels.parquet").write_bytes(b"junk")
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        run(town, labels=tmp_path / "labels.parquet")
    with rasterio.open(
        tmp_path / "height.tif", "w", driver="GTiff", width=9, height=9, count=1, dtype="uint8",
        crs="EPSG:32618", transform=rasterio.transform.from_origin(580_000, 4_506_500, 800, 800),
    ) as file:  # fmt: skip
        file.write(np.ones((9, 9), dtype="uint8"), 1)
    with pytest.raises(InputError, match=r"no nodata tag.*gdal_translate"):
        run(town, labels=tmp_path / "height.tif")


N = np.arange(144)


@pytest.mark.parametrize(
    ("labels", "block_m", "said"),
    [
        (N * np.nan, None, "labels of `height` are missing"),
        (N * 0.0, None, "is constant in all"),
        (np.where(N < 14, N, np.nan), None, "16 are required"),
        (N, 1e6, "in 1 district"),
        (np.where(N < 36, N, np.nan), 1.0, "no labelled region can be held out.*--block_m"),
        (N - 1, None, "labels of -1 or less"),
    ],
)
def test_rejects_labels_that_cannot_be_predicted(labels, block_m, said):
    vectors = Vectors(N, np.random.default_rng(0).normal(size=(144, 6)), np.ones(144, int))
    inputs = grid(labels, transform="ln1p")
    with np.errstate(divide="ignore"), pytest.raises(InputError, match=said):
        predict(inputs, vectors, block_m=block_m)


def test_grids_take_labels_from_points_and_rasters(town, tmp_path):
    listing = pd.read_csv(town.photos / "photos.csv").assign(height=town.values)
    listing.to_csv(tmp_path / "points.csv", index=False)
    for grid_size in ({"side_m": 400.0}, {"h3_resolution": 9}):
        points = tmp_path / "points.csv"
        inputs = from_files(town.photos, {"height": "m"}, labels=points, **grid_size)
        assert np.isfinite(inputs.indicators[0].raw).all()
        assert inputs.source.num_images["street_view"] == len(listing)
        assert inputs.source.region_ids == inputs.regions["region_id"].tolist()
    assert inputs.regions["region_id"].str.startswith("h3_").all()
    with rasterio.open(
        tmp_path / "height.tif", "w", driver="GTiff", width=SIDE, height=SIDE, count=1,
        dtype="float32", crs=CRS, nodata=-1,
        transform=rasterio.transform.from_origin(ORIGIN[0], ORIGIN[1] + SIDE * 500, 500, 500),
    ) as file:  # fmt: skip
        file.write(town.values.reshape(SIDE, SIDE)[::-1].astype("float32"), 1)
    found, _ = read(town, labels=tmp_path / "height.tif")
    np.testing.assert_allclose(list(found.values()), town.values, rtol=1e-4)
