"""A town built from its name, with every provider on the loopback address."""

import collections
import hashlib
import json
import logging
import re
import sqlite3
import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import shapely
import yaml

from dataset_builders.__main__ import _ask, _NothingFetchedError, main
from dataset_builders.city.build import build, retry_failed
from dataset_builders.city.planning import plan
from dataset_builders.city.progress import describe
from dataset_builders.city.recipe import read_recipe
from dataset_builders.download import StoppedError
from dataset_builders.sources import local_folder
from dataset_builders.storage import read_metadata, read_regions, read_rejects, read_table

from ..processes import run_python
from .provider import TOWN, CityProvider

rasterio = pytest.importorskip("rasterio")
pytest.importorskip("osmnx")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
KEY = "S3CRET"
FAST = {"per_second": 2000, "at_once": 16}


@pytest.fixture
def provider(monkeypatch):
    monkeypatch.setenv("GOOGLE_MAPS_API_KEY", KEY)
    monkeypatch.setenv("BAIDU_MAP_AK", KEY)
    with CityProvider(KEY) as server:
        yield server
        server.shutdown()


@pytest.fixture
def write(provider, tmp_path):
    """Writes the town's recipe and its files; returns the recipe's path."""
    return partial(write_recipe, tmp_path, provider.url)


def write_recipe(folder, url, **changes):
    data = folder / "data"
    data.mkdir(exist_ok=True)
    _write_population(data / "mco_ppp_2020_UNadj.tif")
    _write_comments(data / "comments.csv")
    path = folder / "town.yaml"
    path.write_text(yaml.safe_dump(_recipe(url) | changes))
    return path


def quick_build(recipe, folder, **options):
    return build(recipe, folder, draw=False, **options)


def _recipe(url):
    return {
        "city": "testville",
        "boundary": {"place": "Testville", "nominatim_url": f"{url}/nominatim"},
        "regions": {"side_m": 200, "plane": "epsg32632"},
        "roads": {"overpass_url": f"{url}/overpass", "spacing_m": 120, "thin_m": 20},
        "satellite": {
            "provider": "tiles",
            "name": "demo",
            "url": url + "/tiles/{z}/{x}/{y}.jpg",
            "zoom": 17,
            "licence": "cc0-1.0",
            "attribution": "a demo",
            "redistributable": True,
        },
        "street_view": [
            {"provider": "google", "base_url": url, "size_px": 64, "headings": [90]},
            {"provider": "baidu", "base_url": url, "width": 64, "height": 32},
        ],
        "indicators": [
            {"name": "population", "reader": "raster", "files": "mco_ppp_2020_UNadj.tif"},
            {"name": "comments", "reader": "points", "files": "comments.csv",
             "coord_system": "wgs84", "count_column": "reviews"},
        ],
        "network": {"limits": {"127.0.0.1": FAST}},
        "costs": {"ask_above_price": 100},
        "data_dir": "data",
    }  # fmt: skip


def _write_population(path):
    west, _, _, north = TOWN
    transform = rasterio.transform.from_origin(west - 0.005, north + 0.005, 1 / 1200, 1 / 1200)
    values = np.random.default_rng(0).gamma(2, 20, (24, 28)).astype("float32")
    profile = {"driver": "GTiff", "height": 24, "width": 28, "count": 1, "dtype": "float32"}
    with rasterio.open(
        path, "w", **profile, crs="EPSG:4326", transform=transform, nodata=-99999
    ) as file:
        file.write(values, 1)


def _write_comments(path):
    rng = np.random.default_rng(1)
    west, south, east, north = TOWN
    frame = pd.DataFrame(
        {
            "lon": rng.uniform(west, east, 200),
            "lat": rng.uniform(south, north, 200),
            "reviews": rng.integers(0, 50, 200),
        }
    )
    frame.loc[0, "reviews"] = -1
    frame.to_csv(path, index=False)


def _content(dataset):
    """Every file of a dataset by its hash; times of fetching differ between runs."""
    tables = {}
    for path in sorted(dataset.rglob("part-*.parquet")):
        frame = pd.read_parquet(path)
        if "fetched_at" in frame:
            frame["image"] = [hashlib.sha256(one["bytes"]).hexdigest() for one in frame["image"]]
            frame = frame.drop(columns="fetched_at")
        tables[path.relative_to(dataset).as_posix()] = frame
    files = {name: (dataset / name).read_bytes() for name in ("README.md", "rejects.parquet")}
    return tables, files


def _assert_same(one, other):
    (tables, files), (other_tables, other_files) = _content(one), _content(other)
    assert tables.keys() == other_tables.keys()
    for name, frame in tables.items():
        pd.testing.assert_frame_equal(frame, other_tables[name], obj=name)
    assert files == other_files


def test_a_town_is_built_from_its_name(write, provider, tmp_path):
    report = build(read_recipe(write()), tmp_path / "run", recipe_text="city: testville")
    assert set(report.rows) == {
        "testville-regions",
        "testville-satellite",
        "testville-street_view",
    }
    regions = read_regions(report.dataset, "testville")
    assert len(regions) == report.rows["testville-regions"] >= 16
    np.testing.assert_allclose(regions["area_m2"], 200**2, rtol=1e-3)
    # every region has its tile picture, and every picture its region
    satellite = read_table(report.dataset, "testville", "satellite")
    assert set(satellite["region_id"]) == set(regions["region_id"])
    views = read_table(report.dataset, "testville", "street_view")
    assert set(views["source"]) == {"google", "baidu"}
    assert not views["redistributable"].any()
    assert satellite["redistributable"].all()
    inside = gpd.GeoSeries.from_xy(views["lon"], views["lat"], crs="EPSG:4326")
    shapes = regions.set_index("region_id").geometry[views["region_id"]].reset_index(drop=True)
    assert shapes.intersects(inside).all()
    # raw values, with their source, and the negative review listed
    comments = pd.read_csv(tmp_path / "data" / "comments.csv")
    assert regions["comments"].sum() <= comments["reviews"].clip(lower=0).sum()
    assert regions["population_source"].eq("worldpop 2020").all()
    assert "negative_count" in set(read_rejects(report.dataset)["reason"])
    assert (report.dataset / "recipe.yaml").read_text() == "city: testville"
    drawn = {path.name for path in (tmp_path / "run" / "report").iterdir()}
    numbers = json.loads((tmp_path / "run" / "report" / "split_report.json").read_text())
    random = numbers["nearest_train_distance_m"]["split_random"]
    # a cell of 200 m has a neighbour in training
    assert 199 < random["p05"] <= random["median"] < 500
    assert set(numbers["correlation_range_m"]) <= {"population", "comments"}
    assert sum(numbers["counts"]["split_random"].values()) == len(regions)
    assert numbers["duplicates"]["straddling"] == {"split_random": 0, "split_block": 0}
    page = (tmp_path / "run" / "report" / "split_report.html").read_text()
    assert page.count("data:image/png;base64,") == 3
    assert {
        "split_distances.png",
        "contact_sheet_satellite.png",
        "coverage_street_view.png",
        "points.png",
    } <= drawn
    assert {path for path in drawn if path.endswith(".html")} == {"split_report.html"}


def _said_in(path):
    """A file as bytes; tables as they read, since their pages are compressed."""
    if path.suffix != ".parquet":
        return path.read_bytes()
    file = pq.ParquetFile(path)
    values = [batch.to_pylist() for batch in file.iter_batches()]
    return repr((file.metadata.metadata, values)).encode()


def test_no_key_is_left_anywhere(write, tmp_path, capsys, caplog):
    caplog.set_level(logging.DEBUG)
    path, run = write(), tmp_path / "run"
    for command in (["build", "--yes"], ["status"], ["publish"]):
        name, *flags = command
        assert main([name, str(path), "--output_dir", str(run), *flags]) == 0
    said = capsys.readouterr()
    assert KEY not in said.out + said.err + caplog.text
    files = [one for one in run.rglob("*") if one.is_file()]
    assert {"ledger.sqlite", "README.md"} <= {one.name for one in files}
    for one in files:
        assert KEY.encode() not in _said_in(one), one


def test_a_second_build_asks_for_nothing_and_changes_nothing(write, provider, tmp_path):
    recipe = read_recipe(write())
    quick_build(recipe, tmp_path / "run")
    asked = dict(provider.asked)
    times = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("part-*.parquet")}
    quick_build(recipe, tmp_path / "run")
    assert provider.asked == asked
    assert {p: p.stat().st_mtime_ns for p in times} == times


@pytest.mark.parametrize(("point", "count"), [("put", 60), ("rename", 242), ("rename", 246)])
def test_a_killed_build_goes_on_and_ends_the_same(write, provider, tmp_path, point, count):
    path = write()
    script = Path(__file__).with_name("kill_build.py")
    killed = run_python(script, path, tmp_path / "run", point, count)
    assert killed.returncode == -9, killed.stderr[-2000:]
    asked = dict(provider.asked)
    quick_build(read_recipe(path), tmp_path / "run")
    # what was answered is in the ledger; at most what was in flight is asked for again
    again = {name for name, number in provider.asked.items() if number > 1}
    assert len(again) <= FAST["at_once"], again
    assert all(number <= 2 for number in provider.asked.values())
    assert sum(provider.asked.values()) > sum(asked.values()) or point == "rename"
    quick_build(read_recipe(path), tmp_path / "whole")
    _assert_same(tmp_path / "run" / "dataset", tmp_path / "whole" / "dataset")


def test_a_quota_stops_the_build_and_the_next_goes_on(write, provider, tmp_path):
    recipe = read_recipe(write())
    provider.quota = 60
    with pytest.raises(StoppedError, match="quota"):
        quick_build(recipe, tmp_path / "run")
    first = collections.Counter(provider.asked)
    provider.quota = None
    report = quick_build(recipe, tmp_path / "run")
    twice = [name for name, number in provider.asked.items() if number > 1]
    # those in flight then, and those that were told of the quota
    assert len(twice) <= 2 * FAST["at_once"]
    # a slot whose answer speaks of the quota may take one more request before all are called off
    assert sum(first.values()) <= 60 + 2 * FAST["at_once"]
    assert report.rows["testville-street_view"] > 0


def test_faults_are_retried_listed_and_asked_for_again(write, provider, tmp_path):
    recipe = read_recipe(write())
    provider.answers.update(collections.defaultdict(list))
    quick_build(recipe, tmp_path / "whole")
    tiles = sorted(name for name in provider.asked if name.startswith("/tiles/"))
    provider.asked.clear()
    html = (200, {"Content-Type": "text/html"}, b"<html>an error page</html>")
    provider.answers[tiles[0]] = [(429, {"Retry-After": "0"}, b"slow down")]
    provider.answers[tiles[1]] = [(500, {}, b"oops")]
    provider.answers[tiles[2]] = [html]
    provider.answers[tiles[3]] = [(404, {}, b"none")]
    provider.answers[tiles[4]] = [100]  # cut off
    report = quick_build(recipe, tmp_path / "run")
    said = describe(recipe, tmp_path / "run")
    assert re.search("demo: 1 invalid, 1 missing, .* ok", said)
    assert "1 invalid: text/html in place of" in said
    assert report.rejects["invalid"] >= 1
    assert provider.asked[tiles[0]] == provider.asked[tiles[1]] == provider.asked[tiles[4]] == 2
    assert retry_failed(recipe, tmp_path / "run") == 1
    again = quick_build(recipe, tmp_path / "run")
    assert again.rejects.get("invalid", 0) == 0
    assert again.rows["testville-satellite"] > report.rows["testville-satellite"]


def test_what_many_places_share_is_a_placeholder(write, provider, tmp_path):
    recipe = read_recipe(write(network={"limits": {"127.0.0.1": FAST}, "placeholders_above": 3}))
    quick_build(recipe, tmp_path / "whole")
    panoramas = sorted(name for name in provider.asked if name.startswith("/panorama/"))
    content = (200, {"Content-Type": "image/jpeg"}, _noise())
    for name in panoramas[:6]:
        provider.answers[name] = [content]
    report = quick_build(recipe, tmp_path / "run")
    assert report.rejects["placeholder"] == 6


def _noise():
    from .provider import drawn

    return drawn("no picture here", (64, 32))


def test_a_change_of_the_recipe_remakes_the_tables_and_fetches_nothing_twice(
    write, provider, tmp_path
):
    quick_build(read_recipe(write()), tmp_path / "run")
    asked = dict(provider.asked)
    changed = read_recipe(write(splits={"seed": 7}))
    quick_build(changed, tmp_path / "run")
    assert provider.asked == asked
    assert read_metadata(tmp_path / "run" / "dataset", "testville").parameters["seed"] == 7
    quick_build(changed, tmp_path / "whole")
    _assert_same(tmp_path / "run" / "dataset", tmp_path / "whole" / "dataset")


def test_a_limit_takes_regions_from_the_middle(write, provider, tmp_path):
    recipe = read_recipe(write())
    report = quick_build(recipe, tmp_path / "run", limit=4)
    assert report.rows["testville-regions"] == 4
    some = read_regions(report.dataset, "testville").set_index("region_id")
    asked = {name for name in provider.asked if name.startswith("/tiles/")}
    whole = quick_build(recipe, tmp_path / "run")
    everything = read_regions(whole.dataset, "testville").set_index("region_id")
    assert len(everything) > 4
    # around the middle; their labels are those they have among all
    assert some.union_all().intersects(everything.union_all().centroid)
    assert not some.union_all().intersects(everything.union_all().boundary)
    names = ["population", "comments"]
    pd.testing.assert_frame_equal(some[names], everything.loc[some.index, names])
    assert all(provider.asked[name] == 1 for name in asked)


def test_tiles_as_regions_keep_their_bytes(write, provider, tmp_path):
    path = write(regions={"scheme": "tiles", "zoom": 17}, street_view=[], roads=None)
    report = quick_build(read_recipe(path), tmp_path / "run")
    frame = pd.read_parquet(report.dataset / "data/testville-satellite/part-00000.parquet")
    from .provider import drawn

    for row in frame.itertuples():
        name = f"/tiles/{row.tile_z}/{row.tile_x}/{row.tile_y}.jpg"
        assert row.image["bytes"] == drawn(name)


def test_a_plan_counts_and_fetches_no_picture(write, provider, tmp_path):
    recipe = read_recipe(write())
    found = plan(recipe, tmp_path / "run")
    assert not any(name.startswith(("/tiles", "/maps", "/pano")) for name in provider.asked)
    by_name = found.sources.set_index("name")
    # metadata and one picture at each place; one request at each
    assert by_name.requests["google"] == 2 * found.points
    assert by_name.requests["baidu"] == found.points
    assert by_name.price["google"] == pytest.approx(found.points * 7 / 1000)
    assert by_name.hours["demo"] * 3600 == pytest.approx(by_name["items"]["demo"] / 2000)
    assert (tmp_path / "run" / "plan" / "regions.png").exists()
    quick_build(recipe, tmp_path / "run")
    assert plan(recipe, tmp_path / "run", draw=False).total("requests") == 0


def test_the_plan_is_no_less_than_what_is_asked(write, provider, tmp_path):
    recipe = read_recipe(write())
    found = plan(recipe, tmp_path / "run", draw=False)
    before = sum(provider.asked.values())
    quick_build(recipe, tmp_path / "run")
    asked = sum(provider.asked.values()) - before
    assert 0.7 * found.total("requests") <= asked <= found.total("requests")


def test_the_command_line_asks_before_it_spends(write, tmp_path, capsys, monkeypatch):
    path = write(costs={"ask_above_price": 0.1})
    run = [str(path), "--output_dir", str(tmp_path / "run")]
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)
    assert main(["build", *run]) == 2
    assert "--yes" in capsys.readouterr().err
    assert main(["build", *run, "--max_cost", "0.2"]) == 2
    assert "--max_cost" in capsys.readouterr().err
    assert main(["build", *run, "--dry_run"]) == 0
    assert "Nothing was fetched" in capsys.readouterr().out
    assert main(["build", *run, "--yes"]) == 0
    assert main(["status", *run]) == 0
    out = capsys.readouterr().out
    assert "demo" in out
    assert "testville-regions" in out
    assert main(["retry-failed", *run]) == 0


def test_a_missing_key_is_told_by_its_variable(write, tmp_path, monkeypatch, capsys):
    path = write()
    monkeypatch.delenv("GOOGLE_MAPS_API_KEY")
    assert main(["build", str(path), "--output_dir", str(tmp_path / "run"), "--yes"]) == 2
    assert "GOOGLE_MAPS_API_KEY" in capsys.readouterr().err


def test_a_wrong_key_stops_the_build_and_is_not_kept(write, tmp_path, monkeypatch, capsys):
    path = write()
    monkeypatch.setenv("GOOGLE_MAPS_API_KEY", "WR0NG")
    assert main(["build", str(path), "--output_dir", str(tmp_path / "run"), "--yes"]) == 3
    said = capsys.readouterr()
    assert "denied" in said.err
    assert "WR0NG" not in said.err + said.out
    for one in (tmp_path / "run").rglob("*"):
        assert one.is_dir() or b"WR0NG" not in _said_in(one), one


@pytest.mark.parametrize(("answer", "agreed"), [("y", True), (" Yes ", True), ("", False)])
def test_a_person_is_asked_and_the_answer_counts(monkeypatch, answer, agreed):
    asked = []
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: asked.append(question) or answer)
    with nullcontext() if agreed else pytest.raises(_NothingFetchedError, match="1"):
        _ask("This will take 3 GB. Continue?")
    assert asked == ["This will take 3 GB. Continue? [y/N] "]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--max_cost", "nan"], "amount of money"),
        (["--max_cost", "-1"], "amount of money"),
        (["--max_cost", "ten"], "amount of money"),
        (["--limit", "0"], "whole number"),
    ],
)
def test_flags_that_cannot_be_are_told(tmp_path, capsys, flags, message):
    with pytest.raises(SystemExit, match="2"):
        main(["build", "city.yaml", "--output_dir", str(tmp_path), *flags])
    assert message in capsys.readouterr().err


def test_a_build_lies_beside_others_by_its_recipes_name(write, tmp_path, monkeypatch, capsys):
    path = write(street_view=[], roads=None)
    monkeypatch.chdir(tmp_path)
    assert main(["plan", str(path)]) == 0
    assert (tmp_path / "runs" / "town" / "plan" / "plan.json").exists()
    assert main(["build", str(path), "--limit", "2"]) == 0
    assert main(["status", str(path)]) == 0
    assert "testville-regions: 2 rows" in capsys.readouterr().out


def test_a_plan_refuses_what_a_build_would_refuse(write, tmp_path, capsys):
    path = write(
        indicators=[
            {"name": "gdp", "reader": "raster", "files": "mco_ppp_2020_UNadj.tif"},
            {"name": "comments", "reader": "points", "files": "comments.csv",
             "coord_system": "wgs84", "count_column": "stars"},
        ]
    )  # fmt: skip
    for command in ("plan", "build"):
        assert main([command, str(path), "--output_dir", str(tmp_path / "run")]) == 2
        said = capsys.readouterr().err
        assert "gives the indicator 'population', and the recipe calls it 'gdp'" in said
        assert "no column 'stars'" in said
    path = write(street_view=[{"provider": "folder", "folder": "no", "coordinates": "exif"}])
    assert main(["plan", str(path), "--output_dir", str(tmp_path / "run")]) == 2
    assert "There is no folder" in capsys.readouterr().err


def test_a_band_of_a_described_raster_is_read(write, tmp_path):
    path = tmp_path / "data" / "lights.tif"
    raster = {"kind": "intensity", "cell_unit": "radiance", "unit": "nW", "nodata": "gapless"}
    lights = {"name": "night_light", "reader": "raster", "files": path.name}
    recipe = write(indicators=[lights | {"raster": raster | {"band": 2}}], street_view=[])
    transform = rasterio.transform.from_origin(TOWN[0] - 0.01, TOWN[3] + 0.01, 0.001, 0.001)
    profile = {"driver": "GTiff", "height": 40, "width": 40, "count": 2, "dtype": "float32"}
    with rasterio.open(path, "w", **profile, crs="EPSG:4326", transform=transform) as file:
        file.write(np.full((40, 40), 1, "float32"), 1)
        file.write(np.full((40, 40), 7, "float32"), 2)
    report = quick_build(read_recipe(recipe), tmp_path / "run", limit=3)
    found = read_regions(report.dataset, "testville")["night_light"].tolist()
    assert found == pytest.approx([7.0, 7.0, 7.0])


def test_an_attribute_of_polygons_is_shared_out_by_area(write, tmp_path):
    """A grid that does not nest in the regions: 50 people in each cell of 0.001 degrees."""
    west, south, _, _ = TOWN
    lon, lat = (axis.ravel() for axis in np.meshgrid(np.arange(-5, 20), np.arange(-5, 20)))
    left, lower = west + lon / 1000, south + lat / 1000
    cells = shapely.box(left, lower, left + 0.001, lower + 0.001)
    grid = gpd.GeoDataFrame({"people": np.full(len(cells), 50)}, geometry=cells, crs="EPSG:4326")
    population = {
        "name": "population",
        "reader": "polygons",
        "files": "grid.gpkg",
        "column": "people",
    }
    path = write(indicators=[population], street_view=[], roads=None)
    grid.to_file(tmp_path / "data" / "grid.gpkg")
    report = quick_build(read_recipe(path), tmp_path / "run", limit=4)
    regions = read_regions(report.dataset, "testville")
    cell_m2 = gpd.GeoSeries(cells[:1], crs="EPSG:4326").to_crs("EPSG:6933").area[0]
    expected = regions["area_m2"] / cell_m2 * 50
    np.testing.assert_allclose(regions["population"], expected, rtol=1e-3)
    assert regions["population_source"].eq("people of grid.gpkg, allocated by area").all()


def test_a_failed_item_lets_its_own_batch_be_asked_again(write, provider, tmp_path, monkeypatch):
    monkeypatch.setattr("dataset_builders.city.fetching.PLACES_AT_ONCE", 10)
    network = {"limits": {"127.0.0.1": FAST}, "max_attempts": 1}
    recipe = read_recipe(
        write(street_view=_recipe(provider.url)["street_view"][1:], network=network)
    )
    quick_build(recipe, tmp_path / "whole")
    panorama = next(name for name in sorted(provider.asked) if name.startswith("/panorama/"))
    provider.answers[panorama] = [(500, {}, b"oops")]
    quick_build(recipe, tmp_path / "run")
    views = tmp_path / "run" / "cache" / "views"
    complete = {one.name: one.stat().st_mtime_ns for one in views.glob("*.json")}
    assert len(complete) > 1
    assert len(list(views.glob("*.partial"))) == 1
    quick_build(recipe, tmp_path / "run")
    assert not list(views.glob("*.partial"))
    assert len(list(views.glob("*.json"))) == len(complete) + 1
    assert {name: (views / name).stat().st_mtime_ns for name in complete} == complete
    _assert_same(tmp_path / "run" / "dataset", tmp_path / "whole" / "dataset")


def test_local_photos_are_decoded_once_a_build(write, tmp_path, monkeypatch):
    photos = tmp_path / "data" / "photos"
    recipe = write(
        street_view=[{"provider": "folder", "folder": "photos", "coordinates": "file_name"}],
        roads=None,
    )
    photos.mkdir()
    for number in range(3):
        (photos / f"p{number}_7.406{number},43.735_202405_0.jpg").write_bytes(_noise())
    (photos / "broken.jpg").write_bytes(b"no image")
    decoded = collections.Counter()
    decode = local_folder.decode_image
    monkeypatch.setattr(
        local_folder, "decode_image", lambda content: decoded.update([content]) or decode(content)
    )
    report = quick_build(read_recipe(recipe), tmp_path / "run", limit=4)
    assert decoded.total() == 4
    assert report.rejects["unreadable"] == 1


def test_points_in_another_system_are_told_by_its_name(write, tmp_path, capsys):
    path = write()
    data = tmp_path / "data" / "comments.csv"
    frame = pd.read_csv(data).rename(columns={"lon": "lat", "lat": "lon"})
    frame.to_csv(data, index=False)
    assert main(["build", str(path), "--output_dir", str(tmp_path / "run"), "--yes"]) == 2
    assert "swapped" in capsys.readouterr().err


def test_an_unknown_place_is_told(write, provider, tmp_path, capsys):
    path = write(boundary={"place": "Nowhere", "nominatim_url": f"{provider.url}/nominatim"})
    assert main(["plan", str(path), "--output_dir", str(tmp_path / "run")]) == 2
    assert "Nowhere" in capsys.readouterr().err


@pytest.mark.parametrize("how", ["truncated", "altered", "missing"])
def test_damaged_downloads_are_downloaded_anew_by_the_same_build(write, provider, tmp_path, how):
    recipe, run = read_recipe(write()), tmp_path / "run"
    first = quick_build(recipe, run).dataset.rename(tmp_path / "first")
    asked = dict(provider.asked)
    with sqlite3.connect(run / "cache" / "ledger.sqlite") as database:
        wanted = "SELECT sha256 FROM fetched WHERE status = 'ok' AND key LIKE ? LIMIT 2"
        hashes = [
            sha for one in ("demo/%", "baidu/%") for (sha,) in database.execute(wanted, [one])
        ]
    for sha256 in hashes:
        path = run / "cache" / "content" / sha256[:2] / sha256
        content = path.read_bytes()
        path.unlink()
        if how != "missing":
            path.write_bytes(content[:-1] if how == "truncated" else content[:-1] + b"\0")
    _assert_same(quick_build(recipe, run).dataset, first)
    again = {name: count - asked[name] for name, count in provider.asked.items()}
    assert sorted(again.values())[-5:] == [0, 1, 1, 1, 1]
