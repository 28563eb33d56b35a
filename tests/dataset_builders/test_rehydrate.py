"""Withheld images are fetched again; the recipe of a downloaded dataset is not trusted."""

import sys

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from datasets import load_dataset

from dataset_builders.__main__ import main
from dataset_builders.city.build import build
from dataset_builders.city.recipe import read_recipe
from dataset_builders.errors import DatasetError
from dataset_builders.publish import publish
from dataset_builders.rehydrate import rehydrate
from dataset_builders.storage import read_rejects, read_table

from .provider import CityProvider, drawn
from .town import CITY, KEY, images, licensed, recipe_values


def test_pictures_are_fetched_again_with_ones_own_key(town, provider, tmp_path):
    publish(town, tmp_path / "out")
    provider.asked.clear()
    recipe = read_recipe(tmp_path / "town.yaml")
    done = rehydrate(tmp_path / "out", tmp_path / "again", recipe=recipe)
    name = f"{CITY}-street_view"
    assert done.filled[name] == len(images(town, "street_view"))
    assert done.missing.get(name, 0) == done.changed[name] == 0
    # images only: no metadata, no tiles
    assert not [one for one in provider.asked if "metadata" in one or one.startswith("/tiles")]
    before, after = images(town, "street_view"), images(tmp_path / "again", "street_view")
    assert [one["bytes"] for one in after["image"]] == [one["bytes"] for one in before["image"]]
    asked = dict(provider.asked)
    rehydrate(tmp_path / "out", tmp_path / "again", recipe=recipe)
    assert provider.asked == asked
    rows = load_dataset(str(tmp_path / "again"), name, split="train")
    assert rows[0]["image"].size == (64, 64)


def test_a_wrong_key_stops_it_and_a_right_one_goes_on(town, tmp_path, monkeypatch, capsys):
    publish(town, tmp_path / "out")
    command = ["rehydrate", str(tmp_path / "out"), "--output_dir", str(tmp_path / "again")]
    command += ["--recipe", str(tmp_path / "town.yaml"), "--yes"]
    capsys.readouterr()
    for variable in ("GOOGLE_MAPS_API_KEY", "BAIDU_MAP_AK"):
        monkeypatch.setenv(variable, "WR0NG")
    assert main(command) == 3
    said = capsys.readouterr()
    assert "denied" in said.err
    assert "WR0NG" not in said.err + said.out
    for path in (tmp_path / "again").rglob("*"):
        assert path.is_dir() or b"WR0NG" not in path.read_bytes(), path
    monkeypatch.delenv("GOOGLE_MAPS_API_KEY")
    assert main(command) == 2
    assert "GOOGLE_MAPS_API_KEY" in capsys.readouterr().err
    for variable in ("GOOGLE_MAPS_API_KEY", "BAIDU_MAP_AK"):
        monkeypatch.setenv(variable, KEY)
    assert main(command) == 0
    assert images(tmp_path / "again", "street_view")["image"].notna().all()


def test_pictures_that_are_gone_or_changed_are_counted(town, provider, tmp_path):
    publish(town, tmp_path / "out")
    names = sorted(one for one in provider.asked if one.startswith("/panorama"))
    provider.answers[names[0]] = [(404, {}, b"")]
    other = (200, {"Content-Type": "image/jpeg"}, drawn("another", (64, 32)))
    provider.answers[names[1]] = [other]
    recipe = read_recipe(tmp_path / "town.yaml")
    done = rehydrate(tmp_path / "out", tmp_path / "again", recipe=recipe)
    name = f"{CITY}-street_view"
    assert (done.missing[name], done.changed[name]) == (1, 1)
    assert read_rejects(tmp_path / "again")["reason"].eq("not_fetched_again").sum() == 1
    assert "1 changed since publication" in str(done)


def test_satellite_pictures_are_made_again(write, provider, tmp_path):
    satellite = {**recipe_values(provider.url)["satellite"], "redistributable": False}
    path = write(satellite=satellite, street_view=[], roads=None)
    build(read_recipe(path), tmp_path / "run", draw=False, recipe_text=path.read_text())
    dataset = tmp_path / "run" / "dataset"
    assert publish(dataset, tmp_path / "out").withheld["demo"] > 10
    done = rehydrate(tmp_path / "out", tmp_path / "again", recipe=read_recipe(path))
    assert done.changed[f"{CITY}-satellite"] == 0
    one, other = images(dataset, "satellite"), images(tmp_path / "again", "satellite")
    assert [row["bytes"] for row in one["image"]] == [row["bytes"] for row in other["image"]]


def test_a_published_dataset_is_not_filled_in_place(tmp_path):
    publish(licensed(tmp_path / "in", lambda n: True), tmp_path / "out")
    before = sorted((tmp_path / "out").rglob("*"))
    with pytest.raises(DatasetError, match="another folder"):
        rehydrate(tmp_path / "out", tmp_path / "four" / ".." / "out")
    assert sorted((tmp_path / "out").rglob("*")) == before


def test_rejects_stay_known_and_are_forgotten_once_had(town, provider, tmp_path):
    publish(town, tmp_path / "out")
    built = read_rejects(town)["reason"].tolist()
    assert built
    gone = min(one for one in provider.asked if one.startswith("/panorama"))
    provider.answers[gone] = [(404, {}, b"")]
    recipe = read_recipe(tmp_path / "town.yaml")
    rehydrate(tmp_path / "out", tmp_path / "again", recipe=recipe)
    reasons = read_rejects(tmp_path / "again")["reason"]
    assert sorted(reasons) == sorted([*built, "not_fetched_again"])
    rehydrate(tmp_path / "out", tmp_path / "again", recipe=recipe, cache=tmp_path / "fresh")
    assert read_rejects(tmp_path / "again")["reason"].tolist() == built


@pytest.fixture
def downloaded(town, tmp_path):
    """Publish the town with a changed recipe, as a stranger could."""

    def downloaded(**changes):
        publish(town, tmp_path / "out")
        path = tmp_path / "out" / "recipe.yaml"
        path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes))
        return path.parent

    return downloaded


@pytest.fixture
def stranger():
    with CityProvider("sk-S3CRET") as server:
        yield server
        server.shutdown()


@pytest.mark.parametrize(
    ("name", "options"), [("google", {"key_env": "OTHER_API_KEY"}), ("baidu", {})]
)
def test_a_downloaded_recipe_sends_no_key_to_a_host_of_its_own(
    downloaded, stranger, tmp_path, monkeypatch, capsys, name, options
):
    monkeypatch.setenv("OTHER_API_KEY", "sk-S3CRET")
    folder = downloaded(street_view=[{"provider": name, "base_url": stranger.url, **options}])
    assert main(["rehydrate", str(folder), "--output_dir", str(tmp_path / "again")]) == 2
    said = capsys.readouterr().err
    assert stranger.total == 0
    assert f"127.0.0.1:{stranger.server_port}" in said
    assert options.get("key_env", "_") in said
    assert "sk-S3CRET" not in said
    assert not (tmp_path / "again").exists()


def test_a_downloaded_recipe_sends_only_a_providers_own_key(downloaded, tmp_path, monkeypatch):
    monkeypatch.setenv("OTHER_API_KEY", "sk-S3CRET")
    folder = downloaded(street_view=[{"provider": "google", "key_env": "OTHER_API_KEY"}])
    with pytest.raises(DatasetError, match=r"OTHER_API_KEY to maps\.googleapis\.com"):
        rehydrate(folder, tmp_path / "again")


def test_satellite_images_of_an_unknown_host_need_a_recipe_of_ones_own(write, provider, tmp_path):
    satellite = {**recipe_values(provider.url)["satellite"], "redistributable": False}
    path = write(satellite=satellite, street_view=[], roads=None)
    build(read_recipe(path), tmp_path / "run", draw=False, recipe_text=path.read_text())
    publish(tmp_path / "run" / "dataset", tmp_path / "out")
    provider.asked.clear()
    with pytest.raises(DatasetError, match="requests without a key to 127"):
        rehydrate(tmp_path / "out", tmp_path / "again")
    assert provider.total == 0


def test_a_source_whose_images_are_all_there_is_not_judged(tmp_path):
    publish(licensed(tmp_path / "in", lambda n: True), tmp_path / "out")
    url = "http://x.example/{z}/{x}/{y}"
    satellite = {"provider": "tiles", "name": "demo", "url": url, "zoom": 1}
    recipe = {"city": CITY, "boundary": {"place": "Testville"}, "satellite": satellite}
    (tmp_path / "out" / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    rehydrate(tmp_path / "out", tmp_path / "again")
    assert images(tmp_path / "again", "satellite")["image"].notna().all()


def test_a_downloaded_recipe_reads_no_folder_of_this_machine(downloaded, town, tmp_path, capsys):
    private = tmp_path / "private"
    rows = read_table(town, CITY, "street_view", ["image_id", "source"])
    names = [one.partition("/")[2] for one in rows[rows["source"] == "google"]["image_id"]]
    for name in names:
        path = private / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_name(f"{path.name}.jpg").write_bytes(drawn("private"))
    folder = {"provider": "folder", "folder": str(private), "coordinates": "csv", "name": "google"}
    listed = [{"file": f"{name}.jpg", "lon": 7.4, "lat": 43.73} for name in names]
    pd.DataFrame(listed).to_csv(private / "images.csv", index=False)
    published = downloaded(street_view=[folder])
    path = published / "data" / f"{CITY}-street_view" / "part-00000.parquet"
    table = pq.read_table(path)
    column = pa.array([f"{one}.jpg" for one in table["image_id"].to_pylist()])
    number = table.column_names.index("image_id")
    pq.write_table(table.set_column(number, table.schema.field("image_id"), column), path)
    assert main(["rehydrate", str(published), "--output_dir", str(tmp_path / "again")]) == 0
    assert f"{len(table):,} could not be fetched" in capsys.readouterr().out
    assert images(tmp_path / "again", "street_view").empty
    # the user's own recipe may read the folder
    own = yaml.safe_load((tmp_path / "town.yaml").read_text()) | {"street_view": [folder]}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(own))
    done = rehydrate(published, tmp_path / "mine", recipe=read_recipe(tmp_path / "own.yaml"))
    assert done.filled[f"{CITY}-street_view"] == len(names)


@pytest.mark.parametrize(("answer", "code"), [("n", 1), ("y", 0), (None, 2)])
def test_ones_own_recipe_is_asked_about_by_host_and_variable(
    town, provider, tmp_path, monkeypatch, capsys, answer, code
):
    publish(town, tmp_path / "out")
    provider.asked.clear()
    questions = []
    monkeypatch.setattr(sys.stdin, "isatty", lambda: answer is not None, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: questions.append(question) or answer)
    command = ["rehydrate", str(tmp_path / "out"), "--output_dir", str(tmp_path / "again")]
    assert main([*command, "--recipe", str(tmp_path / "town.yaml")]) == code
    said = "".join(questions) + capsys.readouterr().err
    host = f"127.0.0.1:{provider.server_port}"
    assert f"the value of GOOGLE_MAPS_API_KEY to {host}" in said
    assert f"the value of BAIDU_MAP_AK to {host}" in said
    assert f"requests without a key to {host}" in said
    assert (provider.total > 0) == (answer == "y")
