"""Withheld images are fetched again; the recipe of a downloaded dataset is not trusted."""

import shutil
import sys

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from datasets import load_dataset

from dataset_builders.__main__ import main
from dataset_builders.city.recipe import read_recipe
from dataset_builders.errors import DatasetError
from dataset_builders.publish import publish
from dataset_builders.rehydrate import rehydrate
from dataset_builders.storage import read_rejects

from .provider import CityProvider, drawn
from .town import CITY, KEY, images, licensed, quick_build, recipe_values

VIEWS = f"{CITY}-street_view"
VARIABLES = ("GOOGLE_MAPS_API_KEY", "BAIDU_MAP_AK")
pytestmark = pytest.mark.usefixtures("keys")


def test_fetches_withheld_images_again(built, published, tmp_path):
    provider, known = built.provider, read_rejects(built.dataset)["reason"].tolist()
    assert known
    before = dict(provider.asked)
    gone, other = sorted(one for one in built.asked if one.startswith("/panorama"))[:2]
    jpeg = {"Content-Type": "image/jpeg"}
    provider.answers[gone] = [(404, {}, b"")]
    provider.answers[other] = [(200, jpeg, drawn("another", (64, 32)))]
    out, again = published[0], tmp_path / "again"
    done = rehydrate(out, again, recipe=built.recipe)
    total = len(images(built.dataset, "street_view"))
    assert (done.filled[VIEWS], done.missing[VIEWS], done.changed[VIEWS]) == (total - 1, 1, 1)
    assert "1 changed since publication" in str(done)
    assert sorted(read_rejects(again)["reason"]) == sorted([*known, "not_fetched_again"])
    # images only: no metadata, no tiles
    asked = [name for name, number in provider.asked.items() if number > before.get(name, 0)]
    assert not [name for name in asked if "metadata" in name or name.startswith("/tiles")]
    done = rehydrate(out, again, recipe=built.recipe, cache=tmp_path / "fresh")
    assert (done.filled[VIEWS], done.missing[VIEWS], done.changed[VIEWS]) == (total, 0, 0)
    assert read_rejects(again)["reason"].tolist() == known
    expected = [one["bytes"] for one in images(built.dataset, "street_view")["image"]]
    assert [one["bytes"] for one in images(again, "street_view")["image"]] == expected
    before = dict(provider.asked)
    rehydrate(out, again, recipe=built.recipe, cache=tmp_path / "fresh")
    assert provider.asked == before
    rows = load_dataset(str(again), VIEWS, split="train")
    assert rows[0]["image"].size == (64, 64)


def test_command_asks_about_hosts_and_resumes_with_the_right_key(
    built, published, tmp_path, monkeypatch, capsys
):
    again, questions = tmp_path / "again", []

    def reply(answer):
        monkeypatch.setattr(sys.stdin, "isatty", lambda: answer is not None, raising=False)
        monkeypatch.setattr("builtins.input", lambda question: questions.append(question) or answer)

    before = built.provider.total
    command = ["rehydrate", str(published[0]), "--output_dir", str(again)]
    command += ["--recipe", str(built.path)]
    for answer, code in ((None, 2), ("n", 1)):
        reply(answer)
        assert main(command) == code
        said = "".join(questions) + capsys.readouterr().err
        host = f"127.0.0.1:{built.provider.server_port}"
        assert f"the value of GOOGLE_MAPS_API_KEY to {host}" in said
        assert f"the value of BAIDU_MAP_AK to {host}" in said
        assert f"requests without a key to {host}" in said
    assert built.provider.total == before
    for variable in VARIABLES:
        monkeypatch.setenv(variable, "WR0NG")
    reply(" Yes ")
    assert main(command) == 3
    said = "".join(capsys.readouterr())
    assert "denied" in said
    assert "WR0NG" not in said
    for path in again.rglob("*"):
        assert path.is_dir() or b"WR0NG" not in path.read_bytes(), path
    monkeypatch.delenv("GOOGLE_MAPS_API_KEY")
    assert main([*command, "--yes"]) == 2
    assert "GOOGLE_MAPS_API_KEY" in capsys.readouterr().err
    for variable in VARIABLES:
        monkeypatch.setenv(variable, KEY)
    assert main([*command, "--yes"]) == 0
    assert images(again, "street_view")["image"].notna().all()


def test_satellite_images_of_an_unknown_host_need_a_recipe(write, provider, tmp_path):
    satellite = {**recipe_values(provider.url)["satellite"], "redistributable": False}
    path, out = write(satellite=satellite, street_view=[], roads=None), tmp_path / "out"
    dataset = quick_build(path, tmp_path / "run", limit=4, recipe_text=path.read_text()).dataset
    assert publish(dataset, out).withheld["demo"] == 4
    provider.asked.clear()
    with pytest.raises(DatasetError, match="requests without a key to 127"):
        rehydrate(out, tmp_path / "again")
    assert provider.total == 0
    done = rehydrate(out, tmp_path / "again", recipe=read_recipe(path))
    assert done.changed[f"{CITY}-satellite"] == 0
    one, other = images(dataset, "satellite"), images(tmp_path / "again", "satellite")
    assert [row["bytes"] for row in one["image"]] == [row["bytes"] for row in other["image"]]


def test_complete_dataset_needs_no_trusted_recipe_but_another_folder(tmp_path):
    out = tmp_path / "out"
    publish(licensed(tmp_path / "in", lambda n: True, count=2), out)
    url = "http://x.example/{z}/{x}/{y}"
    satellite = {"provider": "tiles", "name": "demo", "url": url, "zoom": 1}
    recipe = {"city": CITY, "boundary": {"place": "Testville"}, "satellite": satellite}
    (out / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    rehydrate(out, tmp_path / "again")
    assert images(tmp_path / "again", "satellite")["image"].notna().all()
    before = sorted(out.rglob("*"))
    with pytest.raises(DatasetError, match="another folder"):
        rehydrate(out, tmp_path / "four" / ".." / "out")
    assert sorted(out.rglob("*")) == before


def downloaded(published, folder, **changes):
    """Copy the published town with a changed recipe, as a stranger could."""
    shutil.copytree(published[0], folder)
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes))
    return folder


@pytest.mark.parametrize(
    "source", [{"provider": "google", "key_env": "OTHER_API_KEY"}, {"provider": "baidu"}]
)
def test_downloaded_recipe_sends_keys_only_to_their_providers(
    published, tmp_path, monkeypatch, capsys, source
):
    monkeypatch.setenv("OTHER_API_KEY", "sk-S3CRET")
    with CityProvider("sk-S3CRET") as stranger:
        views = [{**source, "base_url": stranger.url}]
        folder = downloaded(published, tmp_path / "out", street_view=views)
        assert main(["rehydrate", str(folder), "--output_dir", str(tmp_path / "again")]) == 2
        assert stranger.total == 0
        host = f"127.0.0.1:{stranger.server_port}"
    said = capsys.readouterr().err
    assert host in said
    assert source.get("key_env", "_") in said
    assert "sk-S3CRET" not in said
    if "key_env" in source:
        folder = downloaded(published, tmp_path / "own host", street_view=[source])
        with pytest.raises(DatasetError, match=r"OTHER_API_KEY to maps\.googleapis\.com"):
            rehydrate(folder, tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_downloaded_recipe_reads_no_local_folder(built, published, tmp_path, capsys):
    private = tmp_path / "private"
    rows = images(built.dataset, "street_view")
    names = [one.partition("/")[2] for one in rows[rows["source"] == "google"]["image_id"]]
    for name in names:
        path = private / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(drawn("private"))
    listed = [{"file": f"{name}.jpg", "lon": 7.4, "lat": 43.73} for name in names]
    pd.DataFrame(listed).to_csv(private / "images.csv", index=False)
    folder = {"provider": "folder", "folder": str(private), "coordinates": "csv", "name": "google"}
    out = downloaded(published, tmp_path / "out", street_view=[folder])
    # image ids that the folder would have
    path = out / "data" / VIEWS / "part-00000.parquet"
    table = pq.read_table(path)
    column = pa.array([f"{one}.jpg" for one in table["image_id"].to_pylist()])
    number = table.column_names.index("image_id")
    pq.write_table(table.set_column(number, table.schema.field("image_id"), column), path)
    assert main(["rehydrate", str(out), "--output_dir", str(tmp_path / "again")]) == 0
    assert f"{len(table):,} could not be fetched" in capsys.readouterr().out
    assert images(tmp_path / "again", "street_view").empty
    # the user's own recipe may read the folder
    own = yaml.safe_load(built.path.read_text()) | {"street_view": [folder]}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(own))
    done = rehydrate(out, tmp_path / "mine", recipe=read_recipe(tmp_path / "own.yaml"))
    assert done.filled[VIEWS] == len(names)
