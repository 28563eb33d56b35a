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
from dataset_builders.city.build import build
from dataset_builders.city.recipe import read_recipe
from dataset_builders.errors import DatasetError
from dataset_builders.publish import check_gate, publish, push
from dataset_builders.schema import DatasetMetadata
from dataset_builders.storage import read_table
from dataset_builders.writer import DatasetWriter

from ..hub_server import HubServer
from ..processes import run_python
from .provider import drawn
from .town import CITY, KEY, images, licensed, recipe_values


@pytest.fixture
def many(tmp_path):
    """Dataset of 250 images, every fifth not redistributable."""
    extra = {"satellite": {"redistributable": "bool", "sha256": "string"}}
    metadata = DatasetMetadata("t", "d", "s", "l", indicators=(), extra_columns=extra)
    writer = DatasetWriter(tmp_path / "many", metadata)
    rows = [
        {
            "image": {"bytes": drawn(str(n), (32, 32)), "path": None},
            "image_id": f"i{n:03d}",
            "region_id": f"r{n:03d}",
            "source": "demo",
            "redistributable": n % 5 > 0,
        }
        for n in range(250)
    ]
    for index, start in enumerate(range(0, 250, 70)):
        writer.write_shard(CITY, "satellite", index, rows[start : start + 70])
    regions = [{"region_id": row["region_id"], "city": CITY} for row in rows]
    for index in range(2):
        writer.write_shard(CITY, "regions", index, regions[index * 125 : (index + 1) * 125])
    writer.finish()
    return tmp_path / "many"


def test_pictures_that_may_not_be_passed_on_stay_here(town, tmp_path):
    done = publish(town, tmp_path / "out")
    assert done.withheld == {
        source: int(count)
        for source, count in read_table(town, CITY, "street_view")["source"].value_counts().items()
    }
    views = images(tmp_path / "out", "street_view")
    assert views["image"].isna().all()
    # other columns stay: ids, coordinates, hashes
    before = images(town, "street_view").drop(columns="image")
    pd.testing.assert_frame_equal(views.drop(columns="image"), before)
    assert images(tmp_path / "out", "satellite")["image"].notna().all()
    check_gate(tmp_path / "out")
    for path in (tmp_path / "out").rglob("*.parquet"):
        for row in images(town, "street_view").itertuples():
            assert row.image["bytes"] not in path.read_bytes()


def test_what_is_published_loads_as_a_dataset_and_as_a_map(town, tmp_path):
    publish(town, tmp_path / "out")
    for streaming in (False, True):
        rows = load_dataset(
            str(tmp_path / "out"), f"{CITY}-satellite", split="train", streaming=streaming
        )
        assert next(iter(rows))["image"].size == (256, 256)
    views = load_dataset(str(tmp_path / "out"), f"{CITY}-street_view", split="train")
    assert views[0]["image"] is None
    assert views[0]["sha256"]
    (shard,) = (tmp_path / "out" / "data" / f"{CITY}-regions").glob("*.parquet")
    regions = gpd.read_parquet(shard)
    assert regions.crs == "EPSG:4326"
    assert len(regions) == len(read_table(town, CITY, "regions"))


def test_shards_are_of_the_size_asked_for(many, tmp_path):
    done = publish(many, tmp_path / "out", target_bytes=50_000)
    assert done.shards[f"{CITY}-satellite"] == 4
    assert done.withheld == {"demo": 50}
    paths = sorted((tmp_path / "out" / "data" / f"{CITY}-satellite").glob("*.parquet"))
    for path in paths:
        metadata = pq.read_metadata(path)
        assert metadata.num_rows <= 100 * metadata.num_row_groups
        assert metadata.row_group(0).column(0).has_offset_index
        assert {b"huggingface", b"urbanln"} <= set(metadata.metadata)
    one = publish(many, tmp_path / "one")
    assert one.shards[f"{CITY}-satellite"] == 1
    before = images(many, "satellite").drop(columns="image")
    for folder in ("out", "one"):
        after = images(tmp_path / folder, "satellite").drop(columns="image")
        pd.testing.assert_frame_equal(after, before)
    # all shards of the regions are read as one map
    assert len(gpd.read_parquet(tmp_path / "one" / "data" / f"{CITY}-regions")) == 250


@pytest.mark.parametrize("count", [3, 9])
def test_a_killed_publish_ends_with_the_same_bytes(many, tmp_path, count):
    script = Path(__file__).with_name("kill_publish.py")
    killed = run_python(script, many, tmp_path / "out", count)
    assert killed.returncode == -9, killed.stderr
    one = publish(many, tmp_path / "out", target_bytes=50_000)
    other = publish(many, tmp_path / "whole", target_bytes=50_000)
    assert one.withheld == other.withheld
    files = {p.relative_to(tmp_path / "whole") for p in (tmp_path / "whole").rglob("*.*")}
    assert files == {p.relative_to(tmp_path / "out") for p in (tmp_path / "out").rglob("*.*")}
    for name in files:
        if name.suffix in (".parquet", ".md"):
            assert (tmp_path / "out" / name).read_bytes() == (
                tmp_path / "whole" / name
            ).read_bytes()


def test_the_card_says_who_made_the_pictures_and_what_is_missing(town, tmp_path):
    publish(town, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| `testville-satellite` | demo | cc0-1.0 | a demo |" in card
    assert "images are not in this dataset" in card
    assert "dataset_builders rehydrate" in card
    assert "| `split_random` | train | " in card
    for name in re.findall(r"!\[.*?\]\((.*?)\)", card):
        assert (tmp_path / "out" / name).stat().st_size > 1000
    # no contact sheet of withheld images
    assert not list((tmp_path / "out" / "figures").glob("*street_view*"))


def test_a_folder_that_was_not_published_is_not_pushed(town, tmp_path):
    with pytest.raises(DatasetError, match="not written by `publish`"):
        check_gate(town)
    publish(town, tmp_path / "out")
    name = Path("data") / f"{CITY}-street_view" / "part-00000.parquet"
    (tmp_path / "out" / name).write_bytes((town / name).read_bytes())
    with pytest.raises(DatasetError, match="images that are not marked"):
        check_gate(tmp_path / "out")


def test_a_folder_of_something_else_is_not_written_to(town, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(DatasetError, match="not empty"):
        publish(town, tmp_path / "out")


def test_a_dataset_is_pushed_and_loaded_by_its_name(built, tmp_path):
    path, run = built.path, built.again(tmp_path)
    with HubServer() as hub:
        options = {"cwd": tmp_path, **hub.environment(tmp_path / "home")}
        command = ["-m", "dataset_builders", "publish", path]
        command += ["--output_dir", run, "--push_to_hub", "org/urbanln-town"]
        dry = run_python(*command, "--dry_run", **options)
        assert "Nothing was sent" in dry.stdout, dry.stderr[-2000:]
        assert not hub.asked
        done = run_python(*command, **options)
        assert done.returncode == 0, done.stderr[-2000:]
        assert hub.token not in done.stdout + done.stderr
        code = (
            "from datasets import load_dataset\n"
            "rows = load_dataset('org/urbanln-town', 'testville-satellite', split='train')\n"
            "assert rows[0]['image'].size == (256, 256)\n"
            "print(len(rows))\n"
        )
        loaded = run_python("-c", code, **options)
        assert loaded.returncode == 0, loaded.stderr[-2000:]
        files = hub.files("datasets/org/urbanln-town")
        hub.shutdown()
    assert int(loaded.stdout.split()[-1]) == len(read_table(run / "dataset", CITY, "satellite"))
    assert {"README.md", "published.json", "recipe.yaml"} <= set(files)
    assert not [name for name in files if name.startswith(".")]
    for content in files.values():
        assert KEY.encode() not in content


def test_a_licence_that_is_withdrawn_takes_the_figures_along(tmp_path):
    sheet = tmp_path / "out" / "figures" / f"{CITY}-satellite.png"
    publish(licensed(tmp_path / "one", lambda n: True), tmp_path / "out")
    assert sheet.exists()
    publish(licensed(tmp_path / "two", lambda n: False), tmp_path / "out")
    assert not sheet.exists()
    assert sheet.name not in (tmp_path / "out" / "README.md").read_text()


def test_a_forbidden_picture_does_not_hide_behind_a_missing_one(tmp_path):
    source = licensed(tmp_path / "in", lambda n: n % 2 == 0)
    publish(source, tmp_path / "out")
    name = Path("data") / f"{CITY}-satellite" / "part-00000.parquet"
    table = pq.read_table(source / name)
    swapped = [None if n % 2 == 0 else image for n, image in enumerate(table["image"].to_pylist())]
    field = table.schema.field("image")
    column = table.column_names.index("image")
    table = table.set_column(column, field, pa.array(swapped, field.type))
    pq.write_table(table, tmp_path / "out" / name)
    with pytest.raises(DatasetError, match="holds 20 images"):
        check_gate(tmp_path / "out")


@pytest.mark.parametrize("name", ["cache/x.jpg", f"data/{CITY}-satellite/extra.parquet"])
def test_a_file_that_publish_did_not_write_is_not_sent(tmp_path, name):
    publish(licensed(tmp_path / "in", lambda n: True), tmp_path / "out")
    (tmp_path / "out" / "README.md").write_text("a card that was edited")
    check_gate(tmp_path / "out")
    (tmp_path / "out" / name).parent.mkdir(exist_ok=True)
    (tmp_path / "out" / name).write_bytes(b"x")
    with pytest.raises(DatasetError, match=re.escape(name)):
        check_gate(tmp_path / "out")


def test_the_card_of_a_dataset_without_licences_says_that_its_pictures_are_out(tmp_path):
    publish(licensed(tmp_path / "in", None), tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "**40 images are not in this dataset.**" in card
    assert "rehydrate" not in card  # there is no recipe
    (block,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    exec(block.replace("path/to/this/folder", str(tmp_path / "out")), {})


def test_shards_of_an_earlier_push_do_not_stay(many, tmp_path):
    publish(many, tmp_path / "four", target_bytes=50_000)
    publish(many, tmp_path / "one")
    with HubServer() as hub:
        code = (
            "import sys; from dataset_builders.publish import push; push(sys.argv[1], 'org/town')"
        )
        for name in ("four", "one"):
            done = run_python("-c", code, tmp_path / name, **hub.environment(tmp_path))
            assert done.returncode == 0, done.stderr
        files = hub.files("datasets/org/town")
        hub.shutdown()
    assert [name for name in files if f"{CITY}-satellite/" in name] == [
        f"data/{CITY}-satellite/part-00000.parquet"
    ]


@pytest.mark.parametrize("flag", [[], ["--push_to_hub", "org/town"]])
def test_an_address_with_a_key_is_not_published(write, provider, tmp_path, capsys, flag):
    satellite = recipe_values(provider.url)["satellite"]
    satellite["url"] += "?access_token=pk.S3CRET"
    path, run = write(satellite=satellite), str(tmp_path / "run")
    assert main(["build", str(path), "--output_dir", run, "--yes"]) == 2
    assert main(["publish", str(path), "--output_dir", run, *flag]) == 2
    said = capsys.readouterr().err
    assert said.count("`satellite.url` has an address with a key in it") == 2
    assert "pk.S3CRET" not in said


@pytest.mark.parametrize("text", ["satellite: {url: 'URL'}", "# once: URL\ncity: a"])
def test_a_recipe_beside_a_dataset_is_looked_through_for_keys(town, tmp_path, text):
    publish(town, tmp_path / "out")
    url = "https://tiles.example.com/{z}/{x}/{y}.jpg?access_token=pk.S3CRET"
    (town / "recipe.yaml").write_text(text.replace("URL", url))
    with pytest.raises(DatasetError, match="address with a key"):
        publish(town, tmp_path / "two")
    assert not (tmp_path / "two").exists()
    # published earlier, without this check
    (tmp_path / "out" / "recipe.yaml").write_text(text.replace("URL", url))
    marker = json.loads((tmp_path / "out" / "published.json").read_text())
    content = (tmp_path / "out" / "recipe.yaml").read_bytes()
    marker["sha256"]["recipe.yaml"] = hashlib.sha256(content).hexdigest()
    (tmp_path / "out" / "published.json").write_text(json.dumps(marker))
    with pytest.raises(DatasetError, match="address with a key"):
        check_gate(tmp_path / "out")


def test_a_key_in_what_would_be_published_is_found(write, tmp_path, monkeypatch):
    recipe = read_recipe(write(notes=["Asked for with K3Y+0f+mine.", "Another note."]))
    text = "city: testville\nsatellite: {provider: tiles, key_env: MY_MAP_KEY}\n"
    dataset = build(recipe, tmp_path / "run", draw=False, recipe_text=text).dataset
    monkeypatch.setenv("MY_MAP_KEY", "K3Y+0f+mine")
    with pytest.raises(DatasetError, match=r"MY_MAP_KEY") as refused:
        publish(dataset, tmp_path / "out")
    assert "README.md" in str(refused.value)
    assert f"data/{CITY}-regions/part-00000.parquet" in str(refused.value)
    assert "K3Y" not in str(refused.value)
    with pytest.raises(DatasetError, match="did not finish"):
        check_gate(tmp_path / "out")
    monkeypatch.delenv("MY_MAP_KEY")
    publish(dataset, tmp_path / "out")
    monkeypatch.setenv("HF_TOKEN", "hf_a-t0ken")
    check_gate(tmp_path / "out")
    with (tmp_path / "out" / "README.md").open("a") as card:
        card.write("hf_a-t0ken")
    with pytest.raises(DatasetError, match=r"README\.md \(HF_TOKEN\)"):
        push(tmp_path / "out", "org/town")


def test_a_dry_run_of_no_push_publishes_nothing(tmp_path, capsys):
    command = ["publish", "no_such.yaml", "--output_dir", str(tmp_path), "--dry_run"]
    assert main(command) == 2
    assert "give both" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
