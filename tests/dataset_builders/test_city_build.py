"""Builds of a town, with all providers simulated by a loopback server."""

import collections
import hashlib
import json
import re
import sqlite3
import sys

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from dataset_builders.__main__ import main
from dataset_builders.city.build import retry_failed
from dataset_builders.city.planning import describe, plan
from dataset_builders.city.recipe import read_recipe
from dataset_builders.download import StoppedError
from dataset_builders.storage import read_metadata, read_regions, read_rejects, read_table

from .helpers import run_until_killed
from .provider import drawn
from .town import CITY, FAST, KEY, quick_build, recipe_values, write_recipe

pytest.importorskip("osmnx")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
NOISE = drawn("no picture here", (64, 32))
JPEG = {"Content-Type": "image/jpeg"}


def names(built, start):
    """Sorted requests of the town's build with a prefix."""
    return sorted(name for name in built.asked if name.startswith(start))


def assert_same(one, other):
    """Compare two datasets except for the download times."""

    def content(dataset):
        found = {}
        for path in sorted(dataset.rglob("part-*.parquet")):
            frame = pd.read_parquet(path)
            if "fetched_at" in frame:
                images = [hashlib.sha256(row["bytes"]).hexdigest() for row in frame["image"]]
                frame = frame.assign(image=images).drop(columns="fetched_at")
            found[path.relative_to(dataset).as_posix()] = frame
        card = re.sub("contents [0-9a-f]{16}", "", (dataset / "README.md").read_text())
        return found, card, (dataset / "rejects.parquet").read_bytes()

    (tables, *files), (others, *other_files) = content(one), content(other)
    assert tables.keys() == others.keys()
    for name, frame in tables.items():
        pd.testing.assert_frame_equal(frame, others[name], obj=name)
    assert files == other_files


def test_builds_city_from_place_name(built):
    regions = read_regions(built.dataset, CITY)
    assert len(regions) >= 16
    np.testing.assert_allclose(regions["area_m2"], 200**2, rtol=1e-3)
    satellite = read_table(built.dataset, CITY, "satellite")
    assert set(satellite["region_id"]) == set(regions["region_id"])
    assert satellite["redistributable"].all()
    views = read_table(built.dataset, CITY, "street_view")
    assert set(views["source"]) == {"google", "baidu"}
    assert not views["redistributable"].any()
    inside = gpd.GeoSeries.from_xy(views["lon"], views["lat"], crs="EPSG:4326")
    shapes = regions.set_index("region_id").geometry[views["region_id"]].reset_index(drop=True)
    assert shapes.intersects(inside).all()
    comments = pd.read_csv(built.path.parent / "data" / "comments.csv")
    assert regions["comments"].sum() <= comments["reviews"].clip(lower=0).sum()
    assert regions["population_source"].eq("worldpop 2020").all()
    assert "negative_count" in set(read_rejects(built.dataset)["reason"])
    assert (built.dataset / "recipe.yaml").read_text() == built.path.read_text()
    report = built.run / "report"
    drawings = ("contact_sheet_satellite", "coverage_street_view", "points", "split_distances")
    assert {f"{name}.png" for name in drawings} <= {path.name for path in report.iterdir()}
    numbers = json.loads((report / "split_report.json").read_text())
    random = numbers["nearest_train_distance_m"]["split_random"]
    # most 200-m cells have an adjacent training cell
    assert 199 < random["p05"] <= random["median"] < 500
    assert sum(numbers["counts"]["split_random"].values()) == len(regions)
    assert numbers["duplicates"]["straddling"] == {"split_random": 0, "split_block": 0}


def stored(path):
    """Content of a file, decompressed in the case of Parquet."""
    if path.suffix != ".parquet":
        return path.read_bytes()
    table = pq.read_table(path)
    return repr((table.schema.metadata, table.to_pylist())).encode()


def test_keys_are_neither_stored_nor_logged(built):
    assert "testville-regions" in built.said
    assert KEY not in built.said
    files = [one for one in built.run.rglob("*") if one.is_file()]
    assert {"ledger.sqlite", "README.md"} <= {one.name for one in files}
    for one in files:
        assert KEY.encode() not in stored(one), one


def test_rebuild_requests_nothing_and_rewrites_only_what_changed(built, keys, tmp_path):
    run, before = built.again(tmp_path / "one"), dict(built.provider.asked)
    times = {path: path.stat().st_mtime_ns for path in run.rglob("part-*.parquet")}
    quick_build(built.recipe, run)
    assert {path: path.stat().st_mtime_ns for path in times} == times
    changed = read_recipe(write_recipe(tmp_path, built.provider.url, splits={"seed": 7}))
    quick_build(changed, run)
    assert read_metadata(run / "dataset", CITY).parameters["seed"] == 7
    (run / "dataset").rename(tmp_path / "remade")
    quick_build(changed, run)
    assert_same(tmp_path / "remade", run / "dataset")
    assert built.provider.asked == before


def test_resumes_after_sigkill(built, keys, tmp_path):
    before = collections.Counter(built.provider.asked)
    run = tmp_path / "run"
    code = f"from tests.dataset_builders.town import quick_build; quick_build({str(built.path)!r}, "
    run_until_killed("dataset_builders.ledger.Store.put", 60, code + f"{str(run)!r})")
    quick_build(built.recipe, run)
    # only requests in flight when the build was killed are repeated
    asked = collections.Counter(built.provider.asked) - before
    assert sum(number > 1 for number in asked.values()) <= FAST["at_once"]
    assert max(asked.values()) <= 2
    assert_same(run / "dataset", built.dataset)


def test_exhausted_quota_stops_build_until_rerun(write, provider, tmp_path):
    baidu = recipe_values(provider.url)["street_view"][1:]
    recipe = read_recipe(write(street_view=baidu, satellite=None))
    provider.quota = 20
    with pytest.raises(StoppedError, match="quota"):
        quick_build(recipe, tmp_path / "run")
    # each slot may send another request before the quota error cancels all
    assert provider.total <= 20 + 2 * FAST["at_once"]
    provider.quota = None
    report = quick_build(recipe, tmp_path / "run")
    # requests in flight, and those answered with the quota error
    twice = [name for name, number in provider.asked.items() if number > 1]
    assert len(twice) <= 2 * FAST["at_once"]
    assert report.rows["testville-street_view"] > 0


def test_retries_faults_and_reports_failures(built, write, provider, tmp_path):
    recipe, tiles = read_recipe(write(street_view=[], roads=None)), names(built, "/tiles/")
    html = (200, {"Content-Type": "text/html"}, b"<html>an error page</html>")
    busy, cut_off = (429, {"Retry-After": "0"}, b"slow down"), 100
    faults = [busy, (500, {}, b"oops"), cut_off, html, (404, {}, b"none")]
    for tile, fault in zip(tiles, faults, strict=False):
        provider.answers[tile] = [fault]
    report = quick_build(recipe, tmp_path / "run")
    assert [provider.asked[tile] for tile in tiles[:5]] == [2, 2, 2, 1, 1]
    said = describe(recipe, tmp_path / "run")
    assert re.search("demo: 1 invalid, 1 missing, .* ok", said)
    assert "1 invalid: text/html instead of" in said
    assert report.rejects["invalid"] >= 1
    assert retry_failed(recipe, tmp_path / "run") == 1
    again = quick_build(recipe, tmp_path / "run")
    assert again.rejects.get("invalid", 0) == 0
    assert again.rows["testville-satellite"] > report.rows["testville-satellite"]


def test_failed_item_repeats_only_its_batch_and_shared_images_are_placeholders(
    built, write, provider, tmp_path, monkeypatch
):
    monkeypatch.setattr("dataset_builders.city.fetching.PLACES_AT_ONCE", 10)
    network = {"limits": {"127.0.0.1": FAST}, "max_attempts": 1, "placeholders_above": 3}
    baidu = recipe_values(provider.url)["street_view"][1:]
    recipe = read_recipe(write(street_view=baidu, satellite=None, network=network))
    failing, *shared = names(built, "/panorama/")[:7]
    provider.answers[failing] = [(500, {}, b"oops")]
    for name in shared:
        provider.answers[name] = [(200, JPEG, NOISE)]
    first = quick_build(recipe, tmp_path / "run")
    assert first.rejects["placeholder"] == 6
    views = tmp_path / "run" / "cache" / "views"
    before = {path: path.stat().st_mtime_ns for path in views.glob("*.json")}
    assert len(before) > 2
    second = quick_build(recipe, tmp_path / "run")
    again = [path for path in views.glob("*.json") if path.stat().st_mtime_ns != before[path]]
    assert len(again) == 1
    assert second.rows[f"{CITY}-street_view"] == first.rows[f"{CITY}-street_view"] + 1


def test_limit_takes_central_regions(built, write, provider, tmp_path):
    photos = tmp_path / "data" / "photos"
    folder = {"provider": "folder", "folder": "photos", "coordinates": "file_name"}
    recipe = read_recipe(write(street_view=[folder], roads=None))
    photos.mkdir()
    (photos / "p_7.406,43.735_202405_0.jpg").write_bytes(NOISE)
    (photos / "broken.jpg").write_bytes(b"no image")
    report = quick_build(recipe, tmp_path / "run", limit=4)
    assert (report.rows[f"{CITY}-street_view"], report.rejects["unreadable"]) == (1, 1)
    some = read_regions(tmp_path / "run" / "dataset", CITY).set_index("region_id")
    everything = read_regions(built.dataset, CITY).set_index("region_id")
    assert len(some) == 4 < len(everything)
    assert some.union_all().intersects(everything.union_all().centroid)
    assert not some.union_all().intersects(everything.union_all().boundary)
    labels = ["population", "comments"]
    pd.testing.assert_frame_equal(some[labels], everything.loc[some.index, labels])
    assert len([one for one in provider.asked if one in built.asked]) < len(built.asked)


def test_regions_that_are_tiles_keep_their_bytes(write, tmp_path):
    path = write(regions={"scheme": "tiles", "zoom": 17}, street_view=[], roads=None)
    report = quick_build(path, tmp_path / "run", limit=4)
    frame = pd.read_parquet(report.dataset / "data/testville-satellite/part-00000.parquet")
    assert len(frame) == 4
    for row in frame.itertuples():
        name = f"/tiles/{row.tile_z}/{row.tile_x}/{row.tile_y}.jpg"
        assert row.image["bytes"] == drawn(name)


def test_plan_estimates_costs_without_image_requests(built, write, provider, tmp_path):
    found = plan(read_recipe(write()), tmp_path / "new")
    image_paths = ("/tiles", "/maps", "/pano")
    assert not any(name.startswith(image_paths) for name in provider.asked)
    by_name = found.sources.set_index("name")
    # Google: metadata and one image per location; Baidu: one image
    assert by_name.requests["google"] == 2 * found.points
    assert by_name.requests["baidu"] == found.points
    assert by_name.price["google"] == pytest.approx(found.points * 7 / 1000)
    assert by_name.hours["demo"] * 3600 == pytest.approx(by_name["items"]["demo"] / 2000)
    assert (tmp_path / "new" / "plan" / "regions.png").exists()
    # an upper bound of the requests of a build, and 0 after it
    asked = len([name for name in built.asked if name.startswith(image_paths)])
    assert 0.7 * found.total("requests") <= asked <= found.total("requests")
    assert plan(built.recipe, built.again(tmp_path), draw=False).total("requests") == 0


def test_plan_reports_invalid_inputs(write, provider, tmp_path, capsys):
    wrong = [
        {"name": "gdp", "reader": "raster", "files": "mco_ppp_2020_UNadj.tif"},
        {"name": "comments", "reader": "points", "files": "comments.csv",
         "coord_system": "wgs84", "count_column": "stars"},
    ]  # fmt: skip
    folder = {"provider": "folder", "folder": "no", "coordinates": "exif"}
    nowhere = {"place": "Nowhere", "nominatim_url": f"{provider.url}/nominatim"}
    for changes, messages in (
        ({"indicators": wrong}, ("indicator 'population', but the recipe calls it 'gdp'",
                                 "no column 'stars'")),
        ({"street_view": [folder], "roads": None}, ("There is no folder",)),
        ({"boundary": nowhere}, ("Nowhere",)),
    ):  # fmt: skip
        path = write(**changes)
        assert main(["plan", str(path), "--output_dir", str(tmp_path / "run")]) == 2
        said = capsys.readouterr().err
        assert all(message in said for message in messages), said


def test_command_asks_before_it_spends(write, provider, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)
    monkeypatch.setattr("dataset_builders.city.planning._draw", lambda *_: None)
    google = recipe_values(provider.url)["street_view"][:1]
    path = str(write(costs={"ask_above_price": 0.1}, satellite=None, street_view=google))
    for flags, code, said in (
        ([], 2, "--yes"),
        (["--max_cost", "0.2"], 2, "--max_cost"),
        (["--dry_run"], 0, "Nothing was fetched"),
    ):
        assert main(["build", path, *flags]) == code
        assert said in "".join(capsys.readouterr())
    for flags in (["--max_cost", "nan"], ["--limit", "0"]):
        with pytest.raises(SystemExit, match="2"):
            main(["build", path, *flags])
    run = tmp_path / "runs" / "town"  # the default folder
    assert (run / "plan" / "plan.json").exists()
    assert main(["status", path]) == 0
    assert "google: nothing requested yet" in capsys.readouterr().out
    assert main(["retry-failed", path]) == 0
    monkeypatch.setenv("GOOGLE_MAPS_API_KEY", "WR0NG")
    assert main(["build", path, "--yes"]) == 3
    said = "".join(capsys.readouterr())
    assert "denied" in said
    assert "WR0NG" not in said
    for one in run.rglob("*"):
        assert one.is_dir() or b"WR0NG" not in stored(one), one
    monkeypatch.delenv("GOOGLE_MAPS_API_KEY")
    assert main(["build", path, "--yes"]) == 2
    assert "GOOGLE_MAPS_API_KEY" in capsys.readouterr().err


def test_damaged_downloads_are_repeated(built, keys, tmp_path):
    run, before = built.again(tmp_path), collections.Counter(built.provider.asked)
    with sqlite3.connect(run / "cache" / "ledger.sqlite") as database:
        wanted = "SELECT sha256 FROM fetched WHERE status = 'ok' AND key LIKE ? LIMIT 2"
        hashes = [
            sha for one in ("demo/%", "baidu/%") for (sha,) in database.execute(wanted, [one])
        ]
    (run / "dataset").rename(tmp_path / "first")
    for sha256, how in zip(hashes, ("truncated", "altered", "missing", "altered"), strict=True):
        path = run / "cache" / "content" / sha256[:2] / sha256
        content = path.read_bytes()
        path.unlink()
        if how != "missing":
            path.write_bytes(content[:-1] if how == "truncated" else content[:-1] + b"\0")
    assert_same(quick_build(built.recipe, run).dataset, built.dataset)
    again = collections.Counter(built.provider.asked) - before
    assert sorted(again.values()) == [1, 1, 1, 1]
