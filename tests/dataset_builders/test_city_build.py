"""Complete builds of a town, with all providers simulated by a loopback server."""

import collections
import hashlib
import json
import re
import sqlite3
import sys
from contextlib import nullcontext
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from dataset_builders.__main__ import _ask, _NothingFetchedError, main
from dataset_builders.city.build import retry_failed
from dataset_builders.city.planning import plan
from dataset_builders.city.progress import describe
from dataset_builders.city.recipe import read_recipe
from dataset_builders.download import StoppedError
from dataset_builders.sources import local_folder
from dataset_builders.storage import read_metadata, read_regions, read_rejects, read_table

from ..processes import run_python
from .provider import drawn
from .town import CITY, FAST, KEY, quick_build, recipe_values, write_recipe

pytest.importorskip("osmnx")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
NOISE = drawn("no picture here", (64, 32))


@pytest.fixture
def keys(monkeypatch):
    monkeypatch.setenv("GOOGLE_MAPS_API_KEY", KEY)
    monkeypatch.setenv("BAIDU_MAP_AK", KEY)


def names(built, start):
    """Sorted requests of the town's build with a prefix."""
    return sorted(name for name in built.asked if name.startswith(start))


def _content(dataset):
    """Files of a dataset, without the download times, which differ between runs."""
    tables = {}
    for path in sorted(dataset.rglob("part-*.parquet")):
        frame = pd.read_parquet(path)
        if "fetched_at" in frame:
            frame["image"] = [hashlib.sha256(one["bytes"]).hexdigest() for one in frame["image"]]
            frame = frame.drop(columns="fetched_at")
        tables[path.relative_to(dataset).as_posix()] = frame
    files = {name: (dataset / name).read_bytes() for name in ("README.md", "rejects.parquet")}
    files["README.md"] = re.sub(rb"contents [0-9a-f]{16}", b"", files["README.md"])
    return tables, files


def _assert_same(one, other):
    (tables, files), (other_tables, other_files) = _content(one), _content(other)
    assert tables.keys() == other_tables.keys()
    for name, frame in tables.items():
        pd.testing.assert_frame_equal(frame, other_tables[name], obj=name)
    assert files == other_files


def test_a_town_is_built_from_its_name(built):
    regions = read_regions(built.dataset, CITY)
    assert len(regions) >= 16
    np.testing.assert_allclose(regions["area_m2"], 200**2, rtol=1e-3)
    satellite = read_table(built.dataset, CITY, "satellite")
    assert set(satellite["region_id"]) == set(regions["region_id"])
    views = read_table(built.dataset, CITY, "street_view")
    assert set(views["source"]) == {"google", "baidu"}
    assert not views["redistributable"].any()
    assert satellite["redistributable"].all()
    inside = gpd.GeoSeries.from_xy(views["lon"], views["lat"], crs="EPSG:4326")
    shapes = regions.set_index("region_id").geometry[views["region_id"]].reset_index(drop=True)
    assert shapes.intersects(inside).all()
    comments = pd.read_csv(built.path.parent / "data" / "comments.csv")
    assert regions["comments"].sum() <= comments["reviews"].clip(lower=0).sum()
    assert regions["population_source"].eq("worldpop 2020").all()
    assert "negative_count" in set(read_rejects(built.dataset)["reason"])
    assert (built.dataset / "recipe.yaml").read_text() == built.path.read_text()


def test_a_build_draws_its_report(built):
    drawings = {path.name for path in (built.run / "report").iterdir()}
    assert drawings >= {
        "split_distances.png",
        "contact_sheet_satellite.png",
        "coverage_street_view.png",
        "points.png",
    }
    numbers = json.loads((built.run / "report" / "split_report.json").read_text())
    random = numbers["nearest_train_distance_m"]["split_random"]
    # most 200-m cells have an adjacent training cell
    assert 199 < random["p05"] <= random["median"] < 500
    regions = read_regions(built.dataset, CITY)
    assert sum(numbers["counts"]["split_random"].values()) == len(regions)
    assert numbers["duplicates"]["straddling"] == {"split_random": 0, "split_block": 0}
    page = (built.run / "report" / "split_report.html").read_text()
    assert page.count("data:image/png;base64,") == 3


def _said_in(path):
    """Content of a file, decompressed in the case of Parquet."""
    if path.suffix != ".parquet":
        return path.read_bytes()
    file = pq.ParquetFile(path)
    values = [batch.to_pylist() for batch in file.iter_batches()]
    return repr((file.metadata.metadata, values)).encode()


def test_no_key_is_left_anywhere(built):
    assert "testville-regions" in built.said
    assert KEY not in built.said
    files = [one for one in built.run.rglob("*") if one.is_file()]
    assert {"ledger.sqlite", "README.md"} <= {one.name for one in files}
    for one in files:
        assert KEY.encode() not in _said_in(one), one


def test_a_second_build_asks_for_nothing_and_changes_nothing(built, keys, tmp_path):
    run, before = built.again(tmp_path), dict(built.provider.asked)
    times = {path: path.stat().st_mtime_ns for path in run.rglob("part-*.parquet")}
    quick_build(built.recipe, run)
    assert built.provider.asked == before
    assert {path: path.stat().st_mtime_ns for path in times} == times


@pytest.mark.parametrize(("point", "count"), [("put", 60), ("shard", 3)])
def test_a_killed_build_goes_on_and_ends_the_same(built, keys, tmp_path, point, count):
    before = collections.Counter(built.provider.asked)
    script, run = Path(__file__).with_name("kill_build.py"), tmp_path / "run"
    killed = run_python(script, built.path, run, point, count)
    assert killed.returncode == -9, killed.stderr[-2000:]
    quick_build(built.recipe, run)
    # only requests in flight when the build was killed are repeated
    asked = collections.Counter(built.provider.asked) - before
    again = {name for name, number in asked.items() if number > 1}
    assert len(again) <= FAST["at_once"], again
    assert max(asked.values()) <= 2
    _assert_same(run / "dataset", built.dataset)


def test_a_quota_stops_the_build_and_the_next_goes_on(write, provider, tmp_path):
    recipe = read_recipe(write(street_view=recipe_values(provider.url)["street_view"][1:]))
    provider.quota = 40
    with pytest.raises(StoppedError, match="quota"):
        quick_build(recipe, tmp_path / "run")
    first = collections.Counter(provider.asked)
    provider.quota = None
    report = quick_build(recipe, tmp_path / "run")
    twice = [name for name, number in provider.asked.items() if number > 1]
    # requests in flight, and those answered with the quota error
    assert len(twice) <= 2 * FAST["at_once"]
    # each slot may send another request before the quota error cancels all
    assert sum(first.values()) <= 40 + 2 * FAST["at_once"]
    assert report.rows["testville-street_view"] > 0


def test_faults_are_retried_listed_and_asked_for_again(built, write, provider, tmp_path):
    recipe, tiles = read_recipe(write(street_view=[], roads=None)), names(built, "/tiles/")
    html = (200, {"Content-Type": "text/html"}, b"<html>an error page</html>")
    provider.answers[tiles[0]] = [(429, {"Retry-After": "0"}, b"slow down")]
    provider.answers[tiles[1]] = [(500, {}, b"oops")]
    provider.answers[tiles[2]] = [html]
    provider.answers[tiles[3]] = [(404, {}, b"none")]
    provider.answers[tiles[4]] = [100]  # cut off
    report = quick_build(recipe, tmp_path / "run")
    said = describe(recipe, tmp_path / "run")
    assert re.search("demo: 1 invalid, 1 missing, .* ok", said)
    assert "1 invalid: text/html instead of" in said
    assert report.rejects["invalid"] >= 1
    assert provider.asked[tiles[0]] == provider.asked[tiles[1]] == provider.asked[tiles[4]] == 2
    assert retry_failed(recipe, tmp_path / "run") == 1
    again = quick_build(recipe, tmp_path / "run")
    assert again.rejects.get("invalid", 0) == 0
    assert again.rows["testville-satellite"] > report.rows["testville-satellite"]


def test_what_many_places_share_is_a_placeholder(built, write, provider, tmp_path):
    baidu = recipe_values(provider.url)["street_view"][1:]
    network = {"limits": {"127.0.0.1": FAST}, "placeholders_above": 3}
    content = (200, {"Content-Type": "image/jpeg"}, NOISE)
    for name in names(built, "/panorama/")[:6]:
        provider.answers[name] = [content]
    path = write(network=network, street_view=baidu, satellite=None)
    assert quick_build(path, tmp_path / "run").rejects["placeholder"] == 6


def test_a_change_of_the_recipe_remakes_the_tables_and_fetches_nothing(built, keys, tmp_path):
    run, before = built.again(tmp_path / "one"), dict(built.provider.asked)
    changed = read_recipe(write_recipe(tmp_path, built.provider.url, splits={"seed": 7}))
    quick_build(changed, run)
    assert read_metadata(run / "dataset", CITY).parameters["seed"] == 7
    (run / "dataset").rename(tmp_path / "remade")
    quick_build(changed, run)
    assert built.provider.asked == before
    _assert_same(tmp_path / "remade", run / "dataset")


def test_a_limit_takes_regions_from_the_middle(built, write, provider, tmp_path):
    recipe = read_recipe(write(street_view=[], roads=None))
    quick_build(recipe, tmp_path / "run", limit=4)
    some = read_regions(tmp_path / "run" / "dataset", CITY).set_index("region_id")
    everything = read_regions(built.dataset, CITY).set_index("region_id")
    assert len(some) == 4 < len(everything)
    # central regions with the same labels as in the complete build
    assert some.union_all().intersects(everything.union_all().centroid)
    assert not some.union_all().intersects(everything.union_all().boundary)
    labels = ["population", "comments"]
    pd.testing.assert_frame_equal(some[labels], everything.loc[some.index, labels])
    assert len([one for one in provider.asked if one in built.asked]) < len(built.asked)


def test_tiles_as_regions_keep_their_bytes(write, tmp_path):
    path = write(regions={"scheme": "tiles", "zoom": 17}, street_view=[], roads=None)
    report = quick_build(path, tmp_path / "run")
    frame = pd.read_parquet(report.dataset / "data/testville-satellite/part-00000.parquet")
    for row in frame.itertuples():
        name = f"/tiles/{row.tile_z}/{row.tile_x}/{row.tile_y}.jpg"
        assert row.image["bytes"] == drawn(name)


def test_a_plan_counts_and_fetches_no_picture(built, write, provider, tmp_path):
    found = plan(read_recipe(write()), tmp_path / "new")
    pictures = ("/tiles", "/maps", "/pano")
    assert not any(name.startswith(pictures) for name in provider.asked)
    by_name = found.sources.set_index("name")
    # Google: metadata and one image per location; Baidu: one image
    assert by_name.requests["google"] == 2 * found.points
    assert by_name.requests["baidu"] == found.points
    assert by_name.price["google"] == pytest.approx(found.points * 7 / 1000)
    assert by_name.hours["demo"] * 3600 == pytest.approx(by_name["items"]["demo"] / 2000)
    assert (tmp_path / "new" / "plan" / "regions.png").exists()
    # an upper bound of the requests of a build, and 0 after it
    asked = len([name for name in built.asked if name.startswith(pictures)])
    assert 0.7 * found.total("requests") <= asked <= found.total("requests")
    assert plan(built.recipe, built.again(tmp_path), draw=False).total("requests") == 0


def test_the_command_line_asks_before_it_spends(write, provider, tmp_path, capsys, monkeypatch):
    google = recipe_values(provider.url)["street_view"][:1]
    path = write(costs={"ask_above_price": 0.1}, satellite=None, street_view=google)
    run = [str(path), "--output_dir", str(tmp_path / "run")]
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)
    assert main(["build", *run]) == 2
    assert "--yes" in capsys.readouterr().err
    assert main(["build", *run, "--max_cost", "0.2"]) == 2
    assert "--max_cost" in capsys.readouterr().err
    assert main(["build", *run, "--dry_run"]) == 0
    assert "Nothing was fetched" in capsys.readouterr().out
    assert main(["status", *run]) == 0
    assert "google: nothing requested yet" in capsys.readouterr().out
    assert main(["retry-failed", *run]) == 0
    monkeypatch.setenv("GOOGLE_MAPS_API_KEY", "WR0NG")
    assert main(["build", *run, "--yes"]) == 3
    said = capsys.readouterr()
    assert "denied" in said.err
    assert "WR0NG" not in said.err + said.out
    for one in (tmp_path / "run").rglob("*"):
        assert one.is_dir() or b"WR0NG" not in _said_in(one), one
    monkeypatch.delenv("GOOGLE_MAPS_API_KEY")
    assert main(["build", *run, "--yes"]) == 2
    assert "GOOGLE_MAPS_API_KEY" in capsys.readouterr().err


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
        (["--limit", "0"], "positive integer"),
    ],
)
def test_flags_that_cannot_be_are_told(tmp_path, capsys, flags, message):
    with pytest.raises(SystemExit, match="2"):
        main(["build", "city.yaml", "--output_dir", str(tmp_path), *flags])
    assert message in capsys.readouterr().err


def test_a_build_lies_beside_others_by_its_recipes_name(write, tmp_path, monkeypatch):
    path = write(street_view=[], roads=None, satellite=None, indicators=[])
    monkeypatch.chdir(tmp_path)
    assert main(["plan", str(path)]) == 0
    assert (tmp_path / "runs" / "town" / "plan" / "plan.json").exists()


def test_a_plan_refuses_what_a_build_would_refuse(write, provider, tmp_path, capsys):
    wrong = [
        {"name": "gdp", "reader": "raster", "files": "mco_ppp_2020_UNadj.tif"},
        {"name": "comments", "reader": "points", "files": "comments.csv",
         "coord_system": "wgs84", "count_column": "stars"},
    ]  # fmt: skip
    for changes, messages in (
        (
            {"indicators": wrong},
            ("indicator 'population', but the recipe calls it 'gdp'", "no column 'stars'"),
        ),
        (
            {"street_view": [{"provider": "folder", "folder": "no", "coordinates": "exif"}]},
            ("There is no folder",),
        ),
        (
            {"boundary": {"place": "Nowhere", "nominatim_url": f"{provider.url}/nominatim"}},
            ("Nowhere",),
        ),
    ):
        path = write(**changes)
        assert main(["plan", str(path), "--output_dir", str(tmp_path / "run")]) == 2
        said = capsys.readouterr().err
        assert all(message in said for message in messages), said


def test_a_failed_item_lets_its_own_batch_be_asked_again(
    built, write, provider, tmp_path, monkeypatch
):
    monkeypatch.setattr("dataset_builders.city.fetching.PLACES_AT_ONCE", 10)
    network = {"limits": {"127.0.0.1": FAST}, "max_attempts": 1}
    baidu = recipe_values(provider.url)["street_view"][1:]
    recipe = read_recipe(write(street_view=baidu, satellite=None, network=network))
    panoramas = names(built, "/panorama/")
    provider.answers[panoramas[0]] = [(500, {}, b"oops")]
    first = quick_build(recipe, tmp_path / "run")
    views = tmp_path / "run" / "cache" / "views"
    complete = {one.name: one.stat().st_mtime_ns for one in views.glob("*.json")}
    assert len(complete) > 1
    assert len(list(views.glob("*.partial"))) == 1
    report = quick_build(recipe, tmp_path / "run")
    assert not list(views.glob("*.partial"))
    assert len(list(views.glob("*.json"))) == len(complete) + 1
    assert {name: (views / name).stat().st_mtime_ns for name in complete} == complete
    assert report.rows[f"{CITY}-street_view"] == first.rows[f"{CITY}-street_view"] + 1


def test_local_photos_are_decoded_once_a_build(write, tmp_path, monkeypatch):
    photos = tmp_path / "data" / "photos"
    folder = {"provider": "folder", "folder": "photos", "coordinates": "file_name"}
    recipe = write(street_view=[folder], roads=None, satellite=None)
    photos.mkdir()
    for number in range(3):
        (photos / f"p{number}_7.406{number},43.735_202405_0.jpg").write_bytes(NOISE)
    (photos / "broken.jpg").write_bytes(b"no image")
    decoded = collections.Counter()
    decode = local_folder.decode_image
    monkeypatch.setattr(
        local_folder, "decode_image", lambda content: decoded.update([content]) or decode(content)
    )
    report = quick_build(recipe, tmp_path / "run", limit=4)
    assert decoded.total() == 4
    assert report.rejects["unreadable"] == 1


def test_damaged_downloads_are_downloaded_anew_by_the_same_build(built, keys, tmp_path):
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
    _assert_same(quick_build(built.recipe, run).dataset, built.dataset)
    again = collections.Counter(built.provider.asked) - before
    assert sorted(again.values()) == [1, 1, 1, 1]
