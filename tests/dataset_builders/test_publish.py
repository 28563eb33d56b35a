"""Publishing: shards, the licence gate, and upload to the Hub."""

import hashlib
import json
import re
from pathlib import Path

import geopandas as gpd
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset

from dataset_builders.__main__ import main
from dataset_builders.errors import DatasetError
from dataset_builders.publish import check_gate, files_of, publish
from dataset_builders.storage import read_table

from ..hub_server import HubServer
from ..processes import run_python
from .helpers import run_until_killed
from .town import CITY, KEY, images, licensed, recipe_values

SATELLITE = Path("data") / f"{CITY}-satellite"


def test_withholds_images_that_may_not_be_redistributed(built, published):
    out, done = published
    before = images(built.dataset, "street_view")
    assert done.withheld == before["source"].value_counts().to_dict()
    views = images(out, "street_view")
    assert views["image"].isna().all()
    pd.testing.assert_frame_equal(views.drop(columns="image"), before.drop(columns="image"))
    assert images(out, "satellite")["image"].notna().all()
    check_gate(out)
    contents = [path.read_bytes() for path in out.rglob("*.parquet")]
    assert not any(row["bytes"] in content for row in before["image"] for content in contents)
    card = (out / "README.md").read_text()
    assert "| `testville-satellite` | demo | cc0-1.0 | a demo |" in card
    assert "images are not in this dataset" in card
    assert "dataset_builders rehydrate" in card
    assert "| `split_random` | train | " in card
    for name in re.findall(r"!\[.*?\]\((.*?)\)", card):
        assert (out / name).stat().st_size > 1000
    # no contact sheet of withheld images
    assert not list((out / "figures").glob("*street_view*"))


def test_published_dataset_loads_with_datasets_and_geopandas(built, published):
    out, _ = published
    for streaming in (False, True):
        rows = load_dataset(str(out), f"{CITY}-satellite", split="train", streaming=streaming)
        assert next(iter(rows))["image"].size == (256, 256)
    views = load_dataset(str(out), f"{CITY}-street_view", split="train")
    assert views[0]["image"] is None
    assert views[0]["sha256"]
    (shard,) = (out / "data" / f"{CITY}-regions").glob("*.parquet")
    regions = gpd.read_parquet(shard)
    assert regions.crs == "EPSG:4326"
    assert len(regions) == len(read_table(built.dataset, CITY, "regions"))


def test_resumes_after_sigkill_with_shards_of_the_requested_size(tmp_path):
    many = licensed(tmp_path / "many", lambda n: n % 5 > 0, 130, images_per_shard=110)
    done = publish(many, tmp_path / "out", target_bytes=50_000)
    assert done.shards[f"{CITY}-satellite"] == 2
    assert done.withheld == {"demo": 26}
    for path in (tmp_path / "out" / SATELLITE).glob("*.parquet"):
        metadata = pq.read_metadata(path)
        assert metadata.num_rows <= 100 * metadata.num_row_groups
        assert metadata.row_group(0).column(0).has_offset_index
        assert {b"huggingface", b"urbanln"} <= set(metadata.metadata)
    assert publish(many, tmp_path / "one").shards[f"{CITY}-satellite"] == 1
    before = images(many, "satellite").drop(columns="image")
    for folder in ("out", "one"):
        after = images(tmp_path / folder, "satellite").drop(columns="image")
        pd.testing.assert_frame_equal(after, before)
    # all shards of the regions are read as one map
    assert len(gpd.read_parquet(tmp_path / "one" / "data" / f"{CITY}-regions")) == 130
    killed = tmp_path / "killed"
    code = f"from dataset_builders.publish import *; publish({str(many)!r}, {str(killed)!r}, "
    run_until_killed("os.replace", 3, code + "target_bytes=50_000)")
    again = publish(many, killed, target_bytes=50_000)
    assert again.withheld == done.withheld
    names = [name for name, _ in files_of(tmp_path / "out")]
    assert names == [name for name, _ in files_of(killed)]
    for name in names:
        if name.endswith((".parquet", ".md")):
            assert (killed / name).read_bytes() == (tmp_path / "out" / name).read_bytes()


def test_gate_rejects_changed_folders(tmp_path):
    source, out = licensed(tmp_path / "in", lambda n: n % 2 == 0), tmp_path / "out"
    with pytest.raises(DatasetError, match="not written by `publish`"):
        check_gate(source)
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(DatasetError, match="not empty"):
        publish(source, out)
    (out / "thesis.txt").unlink()
    publish(source, out)
    (out / "README.md").write_text("a card that was edited")
    check_gate(out)
    for name in ("cache/x.jpg", f"{SATELLITE}/extra.parquet"):
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_bytes(b"x")
        with pytest.raises(DatasetError, match=re.escape(name)):
            check_gate(out)
        (out / name).unlink()
    # forbidden images, as many as there were allowed ones
    name = SATELLITE / "part-00000.parquet"
    table = pq.read_table(source / name)
    swapped = [None if n % 2 == 0 else image for n, image in enumerate(table["image"].to_pylist())]
    field, column = table.schema.field("image"), table.column_names.index("image")
    table = table.set_column(column, field, pa.array(swapped, field.type))
    pq.write_table(table, out / name)
    with pytest.raises(DatasetError, match="holds 20 images that are not marked"):
        check_gate(out)


def test_withdrawn_licence_removes_figures(tmp_path):
    sheet = tmp_path / "out" / "figures" / f"{CITY}-satellite.png"
    publish(licensed(tmp_path / "one", lambda n: True), tmp_path / "out")
    assert sheet.exists()
    publish(licensed(tmp_path / "two", None), tmp_path / "out")  # without licences
    assert not sheet.exists()
    card = (tmp_path / "out" / "README.md").read_text()
    assert sheet.name not in card
    assert "**40 images are not in this dataset.**" in card
    assert "rehydrate" not in card  # there is no recipe
    (block,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    exec(block.replace("path/to/this/folder", str(tmp_path / "out")), {})


PUSH = """
import sys
from datasets import load_dataset
from dataset_builders.__main__ import main
from dataset_builders.publish import push
push("first", "org/town")
assert main(sys.argv[1:]) == 0
rows = load_dataset("org/town", "testville-satellite", split="train")
assert rows[0]["image"].size == (256, 256)
print(len(rows))
"""


def test_pushes_dataset_to_the_hub(built, tmp_path, capsys):
    run, satellite = built.again(tmp_path), f"{SATELLITE}/part-0000"
    command = ["publish", str(built.path), "--output_dir", str(run), "--push_to_hub", "org/town"]
    # shards of an earlier push are deleted
    many = licensed(tmp_path / "many", lambda n: True, count=4, images_per_shard=2)
    assert publish(many, tmp_path / "first", target_bytes=1).shards[f"{CITY}-satellite"] == 2
    with HubServer() as hub:
        assert main([*command, "--dry_run"]) == 0
        assert "Nothing was sent" in capsys.readouterr().out
        environment = hub.environment(tmp_path / "home")
        done = run_python("-c", PUSH, *command, cwd=tmp_path, **environment)
        assert done.returncode == 0, done.stderr[-2000:]
        assert hub.token not in done.stdout + done.stderr
        commits = hub.repos["datasets/org/town"].commits
        files = hub.files("datasets/org/town")
    assert f"{satellite}1.parquet" in commits[1]
    assert [name for name in files if name.startswith(satellite)] == [f"{satellite}0.parquet"]
    assert int(done.stdout.split()[-1]) == len(read_table(built.dataset, CITY, "satellite"))
    assert {"README.md", "published.json", "recipe.yaml"} <= set(files)
    assert not [name for name in files if name.startswith(".")]
    assert not [name for name, content in files.items() if KEY.encode() in content]


def test_rejects_urls_with_keys(write, provider, tmp_path, capsys):
    satellite = recipe_values(provider.url)["satellite"]
    satellite["url"] += "?access_token=pk.S3CRET"
    path, run = write(satellite=satellite), str(tmp_path / "run")
    for command in (["build", "--yes"], ["publish", "--push_to_hub", "org/town"]):
        assert main([command[0], str(path), "--output_dir", run, *command[1:]]) == 2
    said = capsys.readouterr().err
    assert said.count("`satellite.url` has an address with a key in it") == 2
    assert "pk.S3CRET" not in said
    command = ["publish", "no_such.yaml", "--output_dir", str(tmp_path / "no"), "--dry_run"]
    assert main(command) == 2
    assert "give both" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


def test_rejects_keys_in_the_recipe_of_a_dataset(tmp_path):
    town, out = licensed(tmp_path / "town", lambda n: True, count=2), tmp_path / "out"
    publish(town, out)
    url = "https://tiles.example.com/{z}/{x}/{y}.jpg?access_token=pk.S3CRET"
    for text in (f"satellite: {{url: '{url}'}}", f"# once: {url}\ncity: a"):
        (town / "recipe.yaml").write_text(text)
        with pytest.raises(DatasetError, match="address with a key"):
            publish(town, tmp_path / "two")
        assert not (tmp_path / "two").exists()
        # published by a version without this check
        (out / "recipe.yaml").write_text(text)
        marker = json.loads((out / "published.json").read_text())
        marker["sha256"]["recipe.yaml"] = hashlib.sha256(text.encode()).hexdigest()
        (out / "published.json").write_text(json.dumps(marker))
        with pytest.raises(DatasetError, match="address with a key"):
            check_gate(out)


def test_rejects_values_of_key_variables_in_files(tmp_path, monkeypatch):
    notes, out = ("Made with K3Y+0f+mine.",), tmp_path / "out"
    town = licensed(tmp_path / "town", lambda n: True, count=2, notes=notes)
    (town / "recipe.yaml").write_text("satellite: {provider: tiles, key_env: MY_MAP_KEY}\n")
    monkeypatch.setenv("MY_MAP_KEY", "K3Y+0f+mine")
    with pytest.raises(DatasetError, match=r"MY_MAP_KEY") as refused:
        publish(town, out)
    assert "README.md" in str(refused.value)
    assert f"data/{CITY}-regions/part-00000.parquet" in str(refused.value)
    assert "K3Y" not in str(refused.value)
    with pytest.raises(DatasetError, match="did not finish"):
        check_gate(out)
    monkeypatch.delenv("MY_MAP_KEY")
    publish(town, out)
    monkeypatch.setenv("HF_TOKEN", "hf_a-t0ken")
    check_gate(out)
    with (out / "README.md").open("a") as card:
        card.write("hf_a-t0ken")
    with pytest.raises(DatasetError, match=r"README\.md \(HF_TOKEN\)"):
        check_gate(out)
