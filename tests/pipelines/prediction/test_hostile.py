"""Tables written by other programs, and invalid arguments."""

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio

from dataset_builders.errors import SourceError
from dataset_builders.importers import image_folder
from dataset_builders.importers.base import import_dataset
from pipelines.common.errors import InputError
from pipelines.prediction.inputs import RegionOptions, from_files
from pipelines.prediction.predict import predict
from pipelines.prediction.vectors import Vectors
from tests.pipelines.prediction.test_predict import run
from tests.pipelines.prediction.test_predict_new import grid


def read(town, regions=None, labels=None, name="height"):
    """Labels by region id, and notes."""
    options = RegionOptions(
        regions=town.frame if regions is None else regions, region_id="tract", labels=labels
    )
    inputs = from_files(town.photos, {name: "m"}, options)
    raw = inputs.indicators[0].raw
    return dict(zip(inputs.regions["region_id"], raw, strict=True)), list(inputs.notes)


def test_ids_are_the_same_as_integers_decimals_and_text_with_blanks(town):
    numbers = np.arange(len(town.frame))
    whole = pd.Series(numbers, dtype="Int64")
    kinds = [numbers, numbers.astype(float), whole, [f" {k} " for k in numbers]]
    expected = dict(zip(map(str, numbers), town.frame["height"], strict=True))
    for of_regions in kinds:
        for of_labels in kinds:
            labels = pd.DataFrame({"tract": of_labels, "height": town.frame["height"]})
            found, notes = read(town, town.frame.assign(tract=of_regions), labels)
            assert found.keys() == expected.keys()
            np.testing.assert_equal([found[name] for name in expected], list(expected.values()))
            assert not notes


def test_rows_of_labels_that_belong_to_no_region_are_counted(town, tmp_path):
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


@pytest.mark.parametrize("name", ["regions.geoparquet", "regions.PARQUET"])
def test_geoparquet_is_known_by_either_suffix(town, tmp_path, name):
    town.frame.to_parquet(tmp_path / name)
    found, _ = read(town, tmp_path / name, tmp_path / name)
    np.testing.assert_array_equal(list(found.values()), town.frame["height"])


def test_a_name_that_no_file_can_have_is_one_missing_photo(town):
    listing = pd.read_csv(town.photos / "photos.csv")
    listing["file"] = [str(town.photos / name) for name in listing["file"]]
    listing.loc[:1, "file"] = ["a" * 400, "a\0b"]
    options = RegionOptions(regions=town.frame, region_id="tract")
    inputs = from_files(listing, {"height": "m"}, options)
    assert [one.reason for one in inputs.rejects] == ["missing", "missing"]


def test_a_folder_without_any_position_is_an_error_of_the_importer_too(town, tmp_path):
    (tmp_path / "0000.png").write_bytes((town.photos / "0000.png").read_bytes())
    with pytest.raises(SourceError, match="No image lies in a polygon"):
        import_dataset(
            image_folder.read,
            tmp_path,
            tmp_path / "dataset",
            city="town",
            view="street_view",
            regions=town.tracts,
            region_id="tract",
        )


def twice(frame, name):
    """The frame with a second column of that name."""
    table = pd.concat([pd.DataFrame(frame), pd.DataFrame(frame)[[name]]], axis=1)
    return gpd.GeoDataFrame(table, geometry="geometry", crs=frame.crs)


WRONG = {
    "two id columns": (lambda t: {"regions": twice(t.frame, "tract")}, "several columns tract"),
    "two label columns": (lambda t: {"regions": twice(t.frame, "height")}, "several columns hei"),
    "a frame without geometry": (
        lambda t: {"regions": pd.DataFrame(t.frame)},
        "a file or a GeoDataFrame, got a DataFrame",
    ),
    "no active geometry": (
        lambda t: {"regions": gpd.GeoDataFrame({"tract": ["a"]})},
        "has no geometry",
    ),
    "labels of a strange type": (lambda t: {"labels": {"t0000": 5}}, "got a dict"),
    "images of a strange type": (
        lambda t: {"images": ["a.jpg"]},
        "or a data frame, got a l",
    ),
    "two columns of longitudes": (
        lambda t: {
            "images": pd.DataFrame([["a", 1.0, 2.0, 3.0]], columns=["file", "lon", "lat", "lon"])
        },
        "several columns lon",
    ),
    "dates": (
        lambda t: {
            "regions": t.frame.assign(height=pd.date_range("2020", periods=len(t.frame))),
        },
        "'height' has dtype datetime64",
    ),
    "points without positions": (
        lambda t: {"labels": pd.DataFrame({"lon": ["?"], "lat": ["?"], "height": [1]})},
        "No row of The table of labels has coordinates",
    ),
    "polygon labels for squares": (
        lambda t: {"regions": None, "region_id": None, "side_m": 500.0, "labels": t.frame},
        "Pass points or a raster",
    ),
    "names that differ in capitals": (
        lambda t: {"indicators": {"height": "m", "Height": "m"}},
        "duplicate columns height",
    ),
    "a name that GeoPackage keeps": (
        lambda t: {"indicators": {"FID": "m"}},
        "duplicate columns FID",
    ),
    "a city without a dataset": (lambda t: {"city": "bern"}, "--city bern is for data"),
    "a protocol that is none": (lambda t: {"protocol": "blocks"}, "block, random, got 'blocks'"),
    "other choices": (
        lambda t: {"aggregate": "median", "transform": "log", "block_m": -5.0, "seed": -1},
        "'median'.*'log'.*got -5.0.*seed must be at least 0",
    ),
    "districts without a neighbour to learn from": (
        lambda t: {
            "regions": t.frame.assign(height=t.frame["height"].where(t.frame.index < 40)),
            "block_m": 1.0,
        },
        "height: no labelled region can be held out.*larger --block_m",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_meant_is_refused(town, name):
    changed, message = WRONG[name]
    with pytest.raises(InputError, match=message):
        run(town, **changed(town))


def test_labels_that_are_no_parquet_are_refused(town, tmp_path):
    (tmp_path / "labels.parquet").write_bytes(b"junk")
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        run(town, labels=tmp_path / "labels.parquet")


def test_a_raster_without_a_nodata_tag_names_a_command_that_writes_one(town, tmp_path):
    with rasterio.open(
        tmp_path / "height.tif", "w", driver="GTiff", width=9, height=9, count=1, dtype="uint8",
        crs="EPSG:32618", transform=rasterio.transform.from_origin(580_000, 4_506_500, 800, 800),
    ) as file:  # fmt: skip
        file.write(np.ones((9, 9), dtype="uint8"), 1)
    with pytest.raises(InputError, match=r"no nodata tag.*gdal_translate"):
        run(town, labels=tmp_path / "height.tif")


def test_negative_labels_of_a_dataset_are_not_taken_for_missing_ones():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(144, 6))
    y = X[:, 0] + 20
    vectors = Vectors(np.arange(len(X)), X, np.ones(len(X), int))
    with np.errstate(invalid="ignore"), pytest.raises(InputError, match="labels of -1 or less"):
        predict(grid(y - 21, transform="ln1p"), vectors)


def test_the_returned_frame_is_written_by_geopandas_as_it_is(town, tmp_path):
    found = run(town)
    assert found.attrs["verdicts"]
    found.to_file(tmp_path / "predictions.gpkg")
    found.to_parquet(tmp_path / "predictions.parquet")
    for read_file in (
        gpd.read_file(tmp_path / "predictions.gpkg"),
        gpd.read_parquet(tmp_path / "predictions.parquet"),
    ):
        np.testing.assert_array_equal(read_file["height_high"], found["height_high"])
        assert read_file["region_id"].tolist() == found["region_id"].tolist()
