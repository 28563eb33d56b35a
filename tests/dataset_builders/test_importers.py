import shutil
import signal
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
from dataset_builders.importers.tiles import parse_tile_name, parse_tile_pair, read_sentences
from dataset_builders.schema import DatasetMetadata
from dataset_builders.storage import (
    iter_images,
    read_indicators,
    read_regions,
    read_rejects,
    read_table,
)

from ..processes import run_python
from .helpers import assert_same_dataset, encoded, picture

KILLER = Path(__file__).with_name("kill_import.py")


def folder(root: Path, count: int = 24) -> Path:
    """Images on a line with steps of 300 m, with two numeric columns."""
    root.mkdir(parents=True)
    rows = []
    for i in range(count):
        (root / f"{i:02}.png").write_bytes(encoded(picture(i)))
        rows.append({"file": f"{i:02}.png", "lon": 2.35 + 0.004 * i, "lat": 48.85,
                     "caption": f"street\n {i}", "heading": 10 * i, "income": 1000.0 + i,
                     "population": i})  # fmt: skip
    pd.DataFrame(rows).to_csv(root / "list.csv", index=False)
    return root


def run(source: Path, output: Path, **options):
    options = {"city": "paris", "view": "street_view"} | options
    return import_dataset(image_folder.read, source, output, **options)


def test_points_become_cells_and_numbers_their_means(tmp_path):
    report = run(folder(tmp_path / "in"), tmp_path / "out", cell_m=1000.0)
    views = read_table(tmp_path / "out", "paris", "street_view")
    regions = read_regions(tmp_path / "out", "paris")
    assert report.written == {
        "paris-regions": len(regions), "paris-street_view": 24,
    }  # fmt: skip
    assert len(regions) == views["region_id"].nunique() in (7, 8)
    assert sorted(views["caption"]) == sorted(f"street {i}" for i in range(24))
    means = views.assign(i=views["heading"] / 10).groupby("region_id")["i"].mean()
    np.testing.assert_allclose(regions["population"], means[regions["region_id"]])
    np.testing.assert_allclose(regions["income"], 1000 + means[regions["region_id"]])
    assert regions["area_m2"].to_numpy() == pytest.approx(1e6, rel=2e-3)
    placed = views.merge(regions[["region_id", "geometry"]], on="region_id")
    points = shapely.points(placed["lon"], placed["lat"])
    assert shapely.dwithin(placed["geometry"].to_numpy(), points, 1e-9).all()


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
def test_a_unit_is_stated_and_never_guessed(tmp_path, options, unit, kind, transform):
    report = run(folder(tmp_path / "in", 6), tmp_path / "out", **options)
    found = read_indicators(tmp_path / "out", "paris")["population"]
    assert (found.unit, found.kind, found.transform) == (unit, kind, transform)
    asked = any("--units 'population=people'" in text for text in report.problems)
    assert asked == ("units" not in options)


def test_named_regions_are_kept_and_get_a_square(tmp_path):
    source = folder(tmp_path / "in", 6)
    table = pd.read_csv(source / "list.csv").assign(region_id=["a", "a", "b", "b", "c", None])
    table.to_csv(source / "list.csv", index=False)
    run(source, tmp_path / "out", cell_m=400.0, ln1p=["income"])
    regions = read_regions(tmp_path / "out", "paris").set_index("region_id")
    assert sorted(regions.index) == ["05", "a", "b", "c"]
    assert regions.loc["a", "lon"] == pytest.approx(2.352)
    assert regions.loc["a", "area_m2"] == pytest.approx(160_000, rel=1e-3)
    assert read_indicators(tmp_path / "out", "paris")["income"].transform == "ln1p"


def test_images_with_no_place_and_no_csv_are_regions_of_their_own(tmp_path):
    source = folder(tmp_path / "in", 10)
    (source / "list.csv").unlink()
    report = run(source, tmp_path / "out", view="satellite")
    regions = read_regions(tmp_path / "out", "paris")
    assert len(regions) == 10
    assert regions.geometry.isna().all()
    assert set(regions["split_random"]) == {"train", "validation", "test"}
    assert regions["split_block"].isna().all()
    assert any("10 without coordinates" in text for text in report.problems)


@pytest.mark.parametrize(
    ("regions", "images", "said"),
    [
        (["r", "s"], ["a", "b", "a"], "paris-satellite.* 1 row repeats the image_id"),
        (["r", "r"], ["a", "b", "c"], "paris-regions.* 1 row repeats the region_id"),
    ],
)
def test_an_id_in_two_rows_is_refused(tmp_path, regions, images, said):
    (tmp_path / "one.png").write_bytes(encoded(picture()))
    items = [ImageItem(name, "r", tmp_path / "one.png") for name in images]
    plan = ImportPlan("paris", pd.DataFrame({"region_id": regions}), {"satellite": items})
    metadata = DatasetMetadata("t", "d", "s", "l", indicators=())
    with pytest.raises(DatasetError, match=said):
        # one image per shard, so that the duplicates are in different shards
        import_dataset(
            lambda source: ([plan], metadata), tmp_path, tmp_path / "out", images_per_shard=1
        )


def test_bad_images_and_rows_are_listed_and_nothing_else_is_lost(tmp_path):
    source = folder(tmp_path / "in", 8)
    good = encoded(picture(3), "JPEG")
    bad = {
        "empty.jpg": b"",
        "text.jpg": b"not an image",
        "cut.jpg": encoded(picture(size=(300, 300)), "JPEG")[:-2000],
        "thin.png": encoded(Image.new("RGB", (1, 10_000))),
        "moving.gif": encoded(
            picture(), "GIF", save_all=True, append_images=[picture(1), picture(2)]
        ),
    }
    fine = {
        "cmyk.jpg": encoded(Image.new("CMYK", (16, 16), (9, 99, 0, 0)), "JPEG"),
        "grey16.png": encoded(Image.fromarray(np.full((16, 16), 40_000, np.uint16))),
        "palette.png": encoded(picture().quantize(16), "PNG"),
        "alone.jpg": good,
    }
    for name, data in {**bad, **fine}.items():
        (source / name).write_bytes(data)
    table = pd.read_csv(source / "list.csv", dtype=str)
    more = pd.DataFrame(
        {"file": [*bad, *list(fine)[:3], "gone.jpg", "../list.csv", "00.png", None]}
    )
    more["caption"] = ["\x00", *["fine"] * (len(more) - 1)]
    pd.concat([table, more]).to_csv(source / "list.csv", index=False)
    report = run(source, tmp_path / "out")
    rejects = read_rejects(tmp_path / "out").set_index("item")["reason"].to_dict()
    assert rejects == {
        "empty": "empty", "text": "unreadable", "cut": "truncated", "thin": "aspect_ratio",
        "moving": "animated", "gone": "missing", "../list.csv": "outside_folder",
        "row 20": "no_file", "00.png": "listed_twice", "alone.jpg": "not_listed",
    }  # fmt: skip
    kept = read_table(tmp_path / "out", "paris", "street_view")["image_id"]
    assert sorted(kept) == [*(f"{i:02}" for i in range(8)), "cmyk", "grey16", "palette"]
    assert sum(report.rejects.values()) == 10
    # regions whose only image was rejected are kept
    assert report.regions_without_image == {"paris": 6}
    for row in iter_images(tmp_path / "out", "paris", "street_view"):
        assert row["image"]


def test_bad_rows_of_a_csv_are_counted_and_end_nothing(tmp_path):
    source = folder(tmp_path / "in", 8)
    (source / "list.csv").write_text(
        "File,Longitude,lat,income\n00.png,2.1,48.1,1\n01.png,inf,48,2\n02.png,2,200,3\n"
        "03.png,east,48,4\n04.png,,,5\n05.png,2,48,6,too,many\n00.png,2,48,7\n06.png\n"
    )
    run(source, tmp_path / "out")
    rejects = read_rejects(tmp_path / "out")
    assert sorted(zip(rejects["item"], rejects["reason"], strict=True)) == [
        ("00.png", "listed_twice"), ("01.png", "bad_coordinates"), ("02.png", "bad_coordinates"),
        ("03.png", "bad_coordinates"), ("05.png", "bad_row"), ("07.png", "not_listed"),
    ]  # fmt: skip
    kept = read_table(tmp_path / "out", "paris", "street_view").set_index("image_id")
    assert sorted(kept.index) == ["00", "04", "06"]
    assert kept["lon"].dropna().to_dict() == {"00": 2.1}


def test_captions_of_any_length_are_kept_clean_and_empty_ones_are_null(tmp_path):
    source = folder(tmp_path / "in", 5)
    table = pd.read_csv(source / "list.csv")
    table["caption"] = ["", "word " * 10_000, "a\x07b", "  ", "A road.<|im_end|> Trees."]
    table.to_csv(source / "list.csv", index=False)
    assert run(source, tmp_path / "out").rejects == {"template_token": 1}
    captions = read_table(tmp_path / "out", "paris", "street_view").set_index("image_id")["caption"]
    assert captions[["00", "03", "04"]].isna().all()
    assert len(captions["01"].split()) == 10_000
    assert captions["02"] == "ab"


def test_indicators_may_be_null_constant_or_no_numbers(tmp_path):
    source = folder(tmp_path / "in", 6)
    table = pd.read_csv(source / "list.csv", dtype=str)
    table = table.assign(nothing="", same="7", some=["1", "inf", "", "4", "5", "6"], Name="x")
    table.to_csv(source / "list.csv", index=False)
    report = run(source, tmp_path / "out", cell_m=10.0)
    regions = read_regions(tmp_path / "out", "paris")
    assert regions["nothing"].isna().all()
    assert (regions["same"] == 7).all()
    assert regions["some"].isna().sum() == 2
    assert "name" not in regions
    assert any("'Name' is left out: 6 of its values" in text for text in report.problems)
    assert any("'some' has 1 infinite values" in text for text in report.problems)


def test_equal_images_are_counted_within_and_across_regions(tmp_path):
    source = folder(tmp_path / "in", 6)
    for name in ("01", "05"):
        shutil.copy(source / "00.png", source / f"{name}.png")
    report = run(source, tmp_path / "out", cell_m=500.0)
    repeated, across = report.duplicate_images["paris-street_view"]
    assert repeated == 2
    assert across >= 1
    assert f"2 duplicate images, {across} in another region" in str(report)
    assert len(read_table(tmp_path / "out", "paris", "street_view")) == 6


def test_files_that_differ_in_their_suffix_keep_it(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    (source / "a.png").write_bytes(encoded(picture(0)))
    (source / "a.jpg").write_bytes(encoded(picture(1), "JPEG"))
    run(source, tmp_path / "out")
    ids = read_table(tmp_path / "out", "paris", "street_view")["image_id"]
    assert sorted(ids) == ["a.jpg", "a.png"]


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        ({"b.csv": b"file\n"}, {}, "several CSVs"),
        ({"list.csv": b"name\nx.jpg\n"}, {}, "no column file; it has name"),
        ({"list.csv": b"file\n\xff.jpg\n"}, {}, "read as UTF-8 CSV"),
        ({"list.csv": b""}, {}, "cannot be read as UTF-8 CSV"),
        ({"list.csv": b"file\n"}, {"ln1p": ["gdp"]}, "--ln1p gdp: there"),
        ({}, {"units": {"gdp": "USD"}}, "--units gdp: there is no such numeric"),
        ({}, {"csv": "no.csv"}, "no such file"),
    ],
)
def test_other_layouts_are_errors_that_say_so(tmp_path, files, options, message):
    source = folder(tmp_path / "in", 3)
    for name, content in files.items():
        (source / name).write_bytes(content)
    with pytest.raises(SourceError, match=message):
        run(source, tmp_path / "out", **options)


def test_an_empty_folder_no_folder_and_that_of_another_import(tmp_path):
    with pytest.raises(SourceError, match="no image and no CSV"):
        run(tmp_path, tmp_path / "out")
    with pytest.raises(SourceError, match="is not a folder"):
        run(tmp_path / "no", tmp_path / "out")
    source = folder(tmp_path / "in", 6)
    run(source, tmp_path / "out")
    with pytest.raises(DatasetError, match="Give another folder"):
        run(source, tmp_path / "out", cell_m=77.0)


def test_an_import_killed_again_and_again_ends_like_one_that_was_not(tmp_path):
    source = folder(tmp_path / "in", 18)
    (source / "05.png").write_bytes(b"broken")
    (source / "13.png").write_bytes(b"")
    (source / "unlisted.png").write_bytes(encoded(picture()))

    def start(point: str, count: int, output: str) -> int:
        return run_python(KILLER, source, tmp_path / output, point, count).returncode

    assert start("load", 0, "straight") == 0
    for point, count in (
        ("load", 6), ("after_rename", 2), ("before_rename", 2), ("after_rename", 3),
    ):  # fmt: skip
        assert start(point, count, "killed") == -signal.SIGKILL
    assert start("load", 0, "killed") == 0
    assert_same_dataset(tmp_path / "straight", tmp_path / "killed")
    rejects = read_rejects(tmp_path / "killed")
    assert sorted(rejects["item"]) == ["05", "13", "unlisted.png"]


# ---- command line --------------------------------------------------------------------------------


def test_the_command_imports_and_reports(tmp_path, capsys):
    source = folder(tmp_path / "in", 6)
    arguments = ["image_folder", "--source", source, "--output_dir", tmp_path / "out",
                 "--city", "paris", "--view", "satellite", "--cell_m", "300"]  # fmt: skip
    assert main([str(word) for word in arguments]) == 0
    assert "paris-satellite: 6 rows" in capsys.readouterr().out


def test_the_command_explains_a_wrong_source_in_a_line(tmp_path, capsys):
    arguments = ["urbanclip", "--source", str(tmp_path), "--output_dir", str(tmp_path / "out")]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert "lacks tiles" in error


def test_units_on_the_command_line_are_pairs(tmp_path, capsys):
    common = ["image_folder", "--source", str(tmp_path), "--output_dir", str(tmp_path / "out")]
    with pytest.raises(SystemExit):
        main([*common, "--city", "a", "--view", "satellite", "--units", "population"])
    assert "must be COLUMN=UNIT, got 'population'" in capsys.readouterr().err


# ---- parts of the importers ----------------------------------------------------------------------


def test_tiles_by_name_and_by_pair():
    assert parse_tile_name("Beijing/16_12659_4738_s.jpg") == (12659, 4738)
    assert parse_tile_name("16_-3_-7_s") == (-3, -7)
    assert parse_tile_name("15_1_2_s.jpg") is parse_tile_name("16_1_2.jpg") is None
    assert parse_tile_pair("(12659,4738)") == (12659, 4738)
    assert parse_tile_pair("(40.1, 116.4)") is None
    assert parse_tile_pair(float("nan")) is None


def test_sentences_are_grouped_by_image_in_order(tmp_path):
    path = tmp_path / "c.json"
    path.write_text('[[[{"caption": "b", "image": "x"}, {"caption": "a", "image": "x"}]],'
                    '{"caption": "c", "image": "y"}]')  # fmt: skip
    assert read_sentences(path) == {"x": ["b", "a"], "y": ["c"]}
    path.write_text('[["no object"]]')
    with pytest.raises(SourceError, match="got 'no object'"):
        read_sentences(path)
    path.write_text("[")
    with pytest.raises(SourceError, match="is not valid JSON"):
        read_sentences(path)


def test_urbanvlp_lists_what_it_cannot_read(tmp_path):
    source, views = tmp_path / "in", tmp_path / "in/urbansv/streetview_images/Beijing"
    views.mkdir(parents=True)
    (source / "urbansat").mkdir()
    for name in ("1_116.4,39.9_202001_10.5", "2_116.4,139.9_202001_1", "odd"):
        (views / f"{name}.jpg").write_bytes(encoded(picture(), "JPEG"))
    texts = source / "urbansv/streetview_texts/Beijing"
    texts.mkdir(parents=True)
    (texts / "1_116.4,39.9_202001_10.5.json").write_text("{}")
    (source / "downstream").mkdir()
    (source / "downstream/Beijing_train.csv").write_text(
        'Coordinate,carbon,poi\n"(12658,4700)",6.5,"{\'a\': 2, \' b\': 3}"\n"x",1,"{}"\n'
        '"(12659,4700)",6.6,"{oops"\n"(12658,4700)",7.5,"{\'a\': 9}"\n'
    )
    (source / "downstream/Beijing_test.csv").write_text('Coordinate,carbon\n"(12658,4700)",8.5\n')
    import_dataset(urbanvlp.read, source, tmp_path / "out")
    regions = read_regions(tmp_path / "out", "beijing").set_index(["tile_x", "tile_y"])
    assert regions.loc[(12658, 4700), "poi"] == 5
    assert regions.loc[(12658, 4700), "carbon_urbanvlp"] == 6.5
    assert np.isnan(regions.loc[(12659, 4700), "poi"])
    assert regions.loc[(12658, 4700), "split_author"] == "train"
    rejects = read_rejects(tmp_path / "out")
    reasons = rejects.set_index("item")["reason"].to_dict()
    assert reasons == {
        "odd.jpg": "bad_name", "2_116.4,139.9_202001_1.jpg": "bad_coordinates",
        "1_116.4,39.9_202001_10.5": "bad_caption", "x": "bad_tile",
        "baidu_16_12659_4700": "bad_poi", "baidu_16_12658_4700": "listed_twice",
    }  # fmt: skip
    # a duplicate within the table, and one in the table of the other part
    twice = rejects.loc[rejects["reason"] == "listed_twice", "detail"]
    assert sorted(twice) == ["Beijing_test.csv", "Beijing_train.csv"]


def test_polygons_bring_regions_and_labels_and_keep_those_without_an_image(tmp_path):
    source = folder(tmp_path / "in", 6)
    listing = pd.read_csv(source / "list.csv")
    listing = listing[["file"]].assign(
        lon=[0.5, 0.6, 1.5, 1.6, 9.0, 2.5], lat=0.5, brightness=[1, 3, 5, 7, 9, 11]
    )
    listing.to_csv(source / "list.csv", index=False)
    tracts = gpd.GeoDataFrame(
        {"tract": list("dcba"), "rent": [10.0, np.nan, 30.0, 40.0], "label": "text"},
        geometry=shapely.box(np.arange(4), 0, np.arange(4) + 1, 1),
        crs="EPSG:4326",
    ).to_crs("EPSG:3857")
    tracts.to_file(tmp_path / "tracts.gpkg")
    report = run(source, tmp_path / "out", regions=tmp_path / "tracts.gpkg", region_id="tract")
    regions = read_regions(tmp_path / "out", "paris").set_index("region_id")
    assert regions.index.tolist() == list("abcd")
    assert regions["rent"].to_dict() == pytest.approx(
        {"a": 40, "b": 30, "c": np.nan, "d": 10}, nan_ok=True
    )
    assert regions["brightness"].to_dict() == pytest.approx(
        {"a": np.nan, "b": 11, "c": 6, "d": 2}, nan_ok=True
    )
    assert report.rejects == {"outside_regions": 1}
    assert report.regions_without_image == {"paris": 1}
    assert any("'label' is left out" in text for text in report.problems)
    with pytest.raises(SourceError, match=r"--region_id is missing.*tract"):
        run(source, tmp_path / "other", regions=tmp_path / "tracts.gpkg")
