import shutil
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
from PIL import Image

from dataset_builders.errors import DatasetError, SourceError
from dataset_builders.importers import image_folder, urbanvlp
from dataset_builders.importers.__main__ import main
from dataset_builders.importers.base import ImageItem, ImportPlan, import_dataset
from dataset_builders.schema import DatasetMetadata
from dataset_builders.storage import read_indicators, read_regions, read_rejects, read_table

from .helpers import assert_same_dataset, encoded, picture, run_until_killed


def folder(root: Path, count: int = 6, **columns) -> Path:
    """Images on a line with steps of 300 m, with two numeric columns; None removes a column."""
    root.mkdir(parents=True)
    numbers = np.arange(count)
    table = {
        "file": [f"{i:02}.png" for i in numbers],
        "lon": 2.35 + 0.004 * numbers,
        "lat": 48.85,
        "caption": [f"street\n {i}" for i in numbers],
        "heading": 10 * numbers,
        "income": 1000.0 + numbers,
        "population": numbers,
    } | columns
    for i, name in enumerate(table["file"]):
        (root / name).write_bytes(encoded(picture(i)))
    pd.DataFrame(table).to_csv(root / "list.csv", index=False)
    return root


def run(source: Path, output: Path, **options):
    options = {"city": "paris", "view": "street_view"} | options
    return import_dataset(image_folder.read, source, output, **options)


def test_points_become_grid_cells_with_mean_values(tmp_path, capsys):
    report = run(folder(tmp_path / "in", 24), tmp_path / "out", cell_m=1000.0)
    views = read_table(tmp_path / "out", "paris", "street_view")
    regions = read_regions(tmp_path / "out", "paris")
    assert report.written == {"paris-regions": len(regions), "paris-street_view": 24}
    assert len(regions) == views["region_id"].nunique() in (7, 8)
    assert sorted(views["caption"]) == sorted(f"street {i}" for i in range(24))
    means = views.assign(i=views["heading"] / 10).groupby("region_id")["i"].mean()
    np.testing.assert_allclose(regions["population"], means[regions["region_id"]])
    np.testing.assert_allclose(regions["income"], 1000 + means[regions["region_id"]])
    assert regions["area_m2"].to_numpy() == pytest.approx(1e6, rel=2e-3)
    placed = views.merge(regions[["region_id", "geometry"]], on="region_id")
    points = shapely.points(placed["lon"], placed["lat"])
    assert shapely.dwithin(placed["geometry"].to_numpy(), points, 1e-9).all()
    with pytest.raises(DatasetError, match="Give another folder"):
        run(tmp_path / "in", tmp_path / "out", cell_m=77.0)
    # the same by the command
    arguments = ["image_folder", "--source", tmp_path / "in", "--output_dir", tmp_path / "out",
                 "--city", "paris", "--view", "street_view", "--cell_m", "1000"]  # fmt: skip
    assert main([str(word) for word in arguments]) == 0
    assert "paris-street_view: 24 rows" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "unit", "kind", "transform"),
    [
        # a column named population may contain logarithms
        ({}, "as in the CSV", "intensity", "identity"),
        ({"ln1p": ["population"]}, "as in the CSV", "intensity", "ln1p"),
        ({"units": {"population": "ln(people)"}}, "ln(people)", "intensity", "identity"),
        ({"units": {"population": "people"}}, "people", "count", "ln1p"),
    ],
)
def test_units_are_never_guessed(tmp_path, options, unit, kind, transform):
    report = run(folder(tmp_path / "in"), tmp_path / "out", **options)
    found = read_indicators(tmp_path / "out", "paris")["population"]
    assert (found.unit, found.kind, found.transform) == (unit, kind, transform)
    asked = any("--units 'population=people'" in text for text in report.problems)
    assert asked == ("units" not in options)


def test_named_regions_get_squares_and_duplicate_images_are_counted(tmp_path):
    source = folder(tmp_path / "in", region_id=["a", "a", "b", "b", "c", None])
    for name in ("01", "04"):
        shutil.copy(source / "00.png", source / f"{name}.png")
    report = run(source, tmp_path / "out", cell_m=400.0)
    regions = read_regions(tmp_path / "out", "paris").set_index("region_id")
    assert sorted(regions.index) == ["05", "a", "b", "c"]
    assert regions.loc["a", "lon"] == pytest.approx(2.352)
    assert regions.loc["a", "area_m2"] == pytest.approx(160_000, rel=1e-3)
    assert report.duplicate_images["paris-street_view"] == (2, 1)
    assert "2 duplicate images, 1 in another region" in str(report)
    assert report.written["paris-street_view"] == 6


def test_unplaced_images_without_csv_are_regions(tmp_path):
    source = folder(tmp_path / "in", 10)
    (source / "list.csv").unlink()
    (source / "00.jpg").write_bytes(encoded(picture(), "JPEG"))
    report = run(source, tmp_path / "out", view="satellite")
    regions = read_regions(tmp_path / "out", "paris")
    # files that differ only in their suffix keep it
    assert {"00.jpg", "00.png", "01"} <= set(regions["region_id"])
    assert len(regions) == 11
    assert regions.geometry.isna().all()
    assert set(regions["split_random"]) == {"train", "validation", "test"}
    assert regions["split_block"].isna().all()
    assert any("11 without coordinates" in text for text in report.problems)


def test_polygons_define_regions_and_labels(tmp_path):
    source = folder(
        tmp_path / "in", lon=[0.5, 0.6, 1.5, 1.6, 9.0, 2.5], lat=0.5, income=[1, 3, 5, 7, 9, 11]
    )
    tracts = gpd.GeoDataFrame(
        {"tract": list("dcba"), "rent": [10.0, np.nan, 30.0, 40.0], "label": "text"},
        geometry=shapely.box(np.arange(4), 0, np.arange(4) + 1, 1),
        crs="EPSG:4326",
    ).to_crs("EPSG:3857")
    tracts.to_file(tmp_path / "tracts.gpkg")
    report = run(source, tmp_path / "out", regions=tmp_path / "tracts.gpkg", region_id="tract")
    regions = read_regions(tmp_path / "out", "paris").set_index("region_id")
    assert regions.index.tolist() == list("abcd")
    for name, values in (("rent", [40, 30, np.nan, 10]), ("income", [np.nan, 11, 6, 2])):
        np.testing.assert_allclose(regions[name], values)
    assert report.rejects == {"outside_regions": 1}
    assert report.regions_without_image == {"paris": 1}
    assert any("'label' is left out" in text for text in report.problems)
    with pytest.raises(SourceError, match=r"--region_id is missing.*tract"):
        run(source, tmp_path / "other", regions=tmp_path / "tracts.gpkg")


@pytest.mark.parametrize(
    ("regions", "images", "said"),
    [
        (["r", "s"], ["a", "b", "a"], "paris-satellite.* 1 row repeats the image_id"),
        (["r", "r"], ["a", "b", "c"], "paris-regions.* 1 row repeats the region_id"),
    ],
)
def test_rejects_duplicate_ids(tmp_path, regions, images, said):
    (tmp_path / "one.png").write_bytes(encoded(picture()))
    items = [ImageItem(name, "r", tmp_path / "one.png") for name in images]
    plan = ImportPlan("paris", pd.DataFrame({"region_id": regions}), {"satellite": items})
    metadata = DatasetMetadata("t", "d", "s", "l", indicators=())
    with pytest.raises(DatasetError, match=said):
        # one image per shard, so that the duplicates are in different shards
        import_dataset(
            lambda source: ([plan], metadata), tmp_path, tmp_path / "out", images_per_shard=1
        )


def test_unusable_images_and_rows_are_listed(tmp_path):
    source = folder(tmp_path / "in", 8)
    frames = {"save_all": True, "append_images": [picture(1), picture(2)]}
    bad = {
        "empty.jpg": b"",
        "text.jpg": b"not an image",
        "cut.jpg": encoded(picture(size=(300, 300)), "JPEG")[:-2000],
        "thin.png": encoded(Image.new("RGB", (1, 10_000))),
        "moving.gif": encoded(picture(), "GIF", **frames),
    }
    fine = {
        "cmyk.jpg": encoded(Image.new("CMYK", (16, 16), (9, 99, 0, 0)), "JPEG"),
        "grey16.png": encoded(Image.fromarray(np.full((16, 16), 40_000, np.uint16))),
        "palette.png": encoded(picture().quantize(16), "PNG"),
    }
    for name, data in {**bad, **fine, "alone.jpg": encoded(picture(), "JPEG")}.items():
        (source / name).write_bytes(data)
    listed = "".join(f"{name},2,48,5\n" for name in (*bad, *fine, "gone.jpg", "../list.csv"))
    (source / "list.csv").write_text(
        "File,Longitude,lat,income\n00.png,2.1,48.1,1\n01.png,inf,48,2\n02.png,2,200,3\n"
        "03.png,east,48,4\n04.png,,,5\n05.png,2,48,6,too,many\n00.png,2,48,7\n06.png\n,2,48,1\n"
        + listed
    )
    report = run(source, tmp_path / "out")
    rejects = read_rejects(tmp_path / "out")
    assert dict(zip(rejects["item"], rejects["reason"], strict=True)) == {
        "00.png": "listed_twice", "01.png": "bad_coordinates", "02.png": "bad_coordinates",
        "03.png": "bad_coordinates", "05.png": "bad_row", "07.png": "not_listed",
        "row 8": "no_file", "alone.jpg": "not_listed", "empty": "empty", "text": "unreadable",
        "cut": "truncated", "thin": "aspect_ratio", "moving": "animated", "gone": "missing",
        "../list.csv": "outside_folder",
    }  # fmt: skip
    assert sum(report.rejects.values()) == len(rejects)
    kept = read_table(tmp_path / "out", "paris", "street_view").set_index("image_id")
    assert sorted(kept.index) == ["00", "04", "06", "cmyk", "grey16", "palette"]
    assert kept.loc["00", "lon"] == 2.1


def test_cleans_captions_and_indicators(tmp_path):
    source = folder(
        tmp_path / "in",
        caption=["", "word " * 10_000, "a\x07b", "  ", "A road.<|im_end|> Trees.", "\x00"],
        nothing="",
        same="7",
        some=["1", "inf", "", "4", "5", "6"],
        Name="x",
    )
    report = run(source, tmp_path / "out", cell_m=10.0)
    assert report.rejects == {"template_token": 1}
    captions = read_table(tmp_path / "out", "paris", "street_view").set_index("image_id")["caption"]
    assert captions[["00", "03", "04", "05"]].isna().all()
    assert len(captions["01"].split()) == 10_000
    assert captions["02"] == "ab"
    regions = read_regions(tmp_path / "out", "paris")
    assert regions["nothing"].isna().all()
    assert (regions["same"] == 7).all()
    assert regions["some"].isna().sum() == 2
    assert "name" not in regions
    assert any("'Name' is left out: 6 of its values" in text for text in report.problems)
    assert any("'some' has 1 infinite values" in text for text in report.problems)


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        ({"b.csv": b"file\n"}, {}, "several CSVs"),
        ({"list.csv": b"name\nx.jpg\n"}, {}, "no column file; it has name"),
        ({"list.csv": b"file\n\xff.jpg\n"}, {}, "read as UTF-8 CSV"),
        ({}, {"ln1p": ["gdp"]}, "--ln1p gdp: there is no such numeric"),
        ({}, {"csv": "no.csv"}, "no such file"),
        ({"list.csv": None}, {}, "no image and no CSV"),
    ],
)
def test_rejects_other_layouts(tmp_path, files, options, message):
    source = folder(tmp_path / "in", 1)
    for name, content in files.items():
        if content is None:
            shutil.rmtree(source)
            source.mkdir()
        else:
            (source / name).write_bytes(content)
    with pytest.raises(SourceError, match=message):
        run(source, tmp_path / "out", **options)


def test_command_reports_errors_on_one_line(tmp_path, capsys):
    arguments = ["--source", str(tmp_path), "--output_dir", str(tmp_path / "out")]
    assert main(["urbanclip", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert "lacks tiles" in error
    arguments += ["--city", "a", "--view", "satellite", "--units", "population"]
    with pytest.raises(SystemExit):
        main(["image_folder", *arguments])
    assert "must be COLUMN=UNIT, got 'population'" in capsys.readouterr().err


def test_resumes_after_sigkill(tmp_path):
    source = folder(tmp_path / "in", 18)
    (source / "05.png").write_bytes(b"broken")
    (source / "unlisted.png").write_bytes(encoded(picture()))
    run(source, tmp_path / "straight", images_per_shard=4)
    killed = tmp_path / "killed"
    code = f"from tests.dataset_builders.test_importers import run; run({str(source)!r}, "
    run_until_killed("os.replace", 3, code + f"{str(killed)!r}, images_per_shard=4)")
    run(source, killed, images_per_shard=4)
    assert_same_dataset(tmp_path / "straight", killed)
    assert sorted(read_rejects(killed)["item"]) == ["05", "unlisted.png"]


def test_urbanvlp_lists_unusable_items(tmp_path):
    source, views = tmp_path / "in", tmp_path / "in/urbansv/streetview_images/Beijing"
    views.mkdir(parents=True)
    tiles = source / "urbansat/satellite_images/Beijing"
    tiles.mkdir(parents=True)
    for path in (
        *(views / f"{name}.jpg" for name in ("1_116.4,39.9_202001_10.5", "odd")),
        views / "2_116.4,139.9_202001_1.jpg",
        *(tiles / name for name in ("16_12658_4700_s.jpg", "15_1_2_s.jpg")),
    ):
        path.write_bytes(encoded(picture(), "JPEG"))
    texts = source / "urbansv/streetview_texts/Beijing"
    texts.mkdir(parents=True)
    (texts / "1_116.4,39.9_202001_10.5.json").write_text("{}")
    (source / "downstream").mkdir()
    (source / "downstream/Beijing_train.csv").write_text(
        'Coordinate,carbon,poi\n"(12658,4700)",6.5,"{\'a\': 2, \' b\': 3}"\n"x",1,"{}"\n'
        '"(12659,4700)",6.6,"{oops"\n"(12658,4700)",7.5,"{\'a\': 9}"\n'
    )
    (source / "downstream/Beijing_test.csv").write_text('Coordinate,carbon\n"(12658,4700)",8.5\n')
    report = import_dataset(urbanvlp.read, source, tmp_path / "out")
    assert report.written["beijing-satellite"] == 1
    regions = read_regions(tmp_path / "out", "beijing").set_index(["tile_x", "tile_y"])
    assert regions.loc[(12658, 4700), "poi"] == 5
    assert regions.loc[(12658, 4700), "carbon_urbanvlp"] == 6.5
    assert np.isnan(regions.loc[(12659, 4700), "poi"])
    assert regions.loc[(12658, 4700), "split_author"] == "train"
    rejects = read_rejects(tmp_path / "out")
    assert rejects.set_index("item")["reason"].to_dict() == {
        "odd.jpg": "bad_name", "2_116.4,139.9_202001_1.jpg": "bad_coordinates",
        "15_1_2_s.jpg": "bad_name", "1_116.4,39.9_202001_10.5": "bad_caption", "x": "bad_tile",
        "baidu_16_12659_4700": "bad_poi", "baidu_16_12658_4700": "listed_twice",
    }  # fmt: skip
    # a duplicate within the table, and one in the table of the other part
    twice = rejects.loc[rejects["reason"] == "listed_twice", "detail"]
    assert sorted(twice) == ["Beijing_test.csv", "Beijing_train.csv"]
