import signal
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from filelock import FileLock
from transformers import AutoModel

from dataset_builders.errors import InUseError
from dataset_builders.images import BadImageError, decode_image
from dataset_builders.storage import iter_images
from pipelines.common.encoders.colour_texture import COLOUR_TEXTURE_DIM, ColourTextureEncoder
from pipelines.common.encoders.transformers_models import load_model_encoder
from pipelines.evaluation.cli import main
from pipelines.evaluation.embed.images import EmbedSettings, Source, embed, embed_parts
from pipelines.evaluation.embed.sources import open_images
from pipelines.evaluation.embed.tables import read_embeddings
from pipelines.evaluation.errors import InputError
from tests.damage import damage
from tests.pipelines.evaluation.toy import CITY, build_toy
from tests.processes import run_python

SETTINGS = EmbedSettings(batch_size=8, chunk_size=24, num_workers=2)
KILLED_AT_BATCH_5 = """
import os, signal, sys
from pathlib import Path
from pipelines.common.encoders.transformers_models import load_model_encoder
from pipelines.evaluation.embed.images import EmbedSettings, embed
from pipelines.evaluation.embed.sources import open_images

dataset, model, output = sys.argv[1:]
encoder = load_model_encoder(model)
calls = iter([encoder.encode] * 4)
encoder.encode = lambda x: next(calls, lambda _: os.kill(os.getpid(), signal.SIGKILL))(x)
embed(encoder, open_images(dataset, "toytown"), Path(output), "urbanln", EmbedSettings(8, 24, 2))
"""


@pytest.fixture(scope="module")
def source(toy_dataset):
    return open_images(str(toy_dataset), CITY)


@pytest.fixture(scope="module")
def small_source(tmp_path_factory):
    return open_images(str(build_toy(tmp_path_factory.mktemp("small"), side=4)), CITY)


@pytest.fixture(scope="module")
def model_encoder(tiny_model_dir):
    return load_model_encoder(str(tiny_model_dir))


@pytest.fixture(scope="module")
def toy_table(tmp_path_factory, source, model_encoder):
    return embed(model_encoder, source, tmp_path_factory.mktemp("toy"), "urbanln", SETTINGS)


def same_table(path, other):
    assert pq.read_table(path).equals(pq.read_table(other))
    mine, theirs = ({**read_embeddings(one).metadata, "seconds": 0} for one in (path, other))
    assert mine == theirs
    rejects = "urbanln.rejects.parquet"
    assert path.with_name(rejects).read_bytes() == other.with_name(rejects).read_bytes()


@pytest.mark.parametrize("view", ["street_view", "satellite"])
def test_vectors_are_mean_image_features(view, toy_table, toy_dataset, tiny_model_dir):
    encoder, model = (
        load_model_encoder(str(tiny_model_dir)),
        AutoModel.from_pretrained(tiny_model_dir),
    )
    expected = {}
    for row in iter_images(toy_dataset, CITY, view):
        try:
            pixel_values = encoder.prepare(decode_image(row["image"]))[None]
        except BadImageError:
            continue
        with torch.no_grad():
            vector = model.get_image_features(pixel_values).pooler_output[0].numpy()
        expected.setdefault(row["region_id"], []).append(vector)
    expected.pop("elsewhere", None)
    table = read_embeddings(toy_table)
    vectors = dict(zip(table.region_ids, table.vectors[view], strict=True))
    assert {name for name, vector in vectors.items() if np.isfinite(vector).all()} == set(expected)
    for region_id, own in expected.items():
        np.testing.assert_allclose(vectors[region_id], np.mean(own, axis=0), atol=1e-5)


def test_unusable_images_are_rejected_with_reason(toy_table, small_source, tmp_path):
    rejects = pq.read_table(toy_table.with_name("urbanln.rejects.parquet")).to_pylist()
    assert {row["item"]: row["reason"] for row in rejects} == {
        "street-bad": "unreadable",
        "street-empty": "empty",
        "street-stray": "unknown_region",
    }
    table = pq.read_table(toy_table)
    assert table["n_street_views"].to_pylist() == [0] + [2] * 63
    assert [table[view].null_count for view in ("street_view", "satellite")] == [1, 0]
    metadata = read_embeddings(toy_table).metadata
    assert metadata["regions_without"] == {"street_view": 1, "satellite": 0}
    assert sum(metadata["rejects"].values()) == 3
    assert metadata["synthetic"] is True

    class Broken(ColourTextureEncoder):
        def encode(self, batch):
            return np.where(np.arange(len(batch))[:, None] == 0, np.nan, super().encode(batch))

    path = embed(Broken(), small_source, tmp_path, "x", SETTINGS)
    rejects = pq.read_table(tmp_path / "x.rejects.parquet")["reason"].to_pylist()
    assert Counter(rejects)["not_finite"] == 6  # first of each batch
    assert np.isfinite(read_embeddings(path).matrix("satellite")[1]).all()


def test_finished_table_is_kept_until_the_encoder_changes(tmp_path, small_source, model_encoder):
    log = []
    path = embed(model_encoder, small_source, tmp_path, "x", SETTINGS, log.append)
    before = path.stat().st_mtime_ns
    embed(model_encoder, small_source, tmp_path, "x", SETTINGS, log.append)
    assert path.stat().st_mtime_ns == before
    assert "already exists" in log[-1]
    embed(ColourTextureEncoder(), small_source, tmp_path, "x", SETTINGS, log.append)
    assert any("will be replaced" in line for line in log)
    assert read_embeddings(path).metadata["dim"] == COLOUR_TEXTURE_DIM
    assert not list(tmp_path.glob(".*"))


def test_changed_images_change_the_fingerprint(small_source, tmp_path):
    same = open_images(str(build_toy(tmp_path / "same", side=4)), CITY)
    more = open_images(str(build_toy(tmp_path / "more", side=4, street_views=3)), CITY)
    assert same.fingerprint == small_source.fingerprint != more.fingerprint


@pytest.mark.parametrize("as_parquet", [True, False])
def test_foreign_file_is_not_replaced(tmp_path, source, as_parquet):
    path = tmp_path / "x.parquet"
    path.write_bytes(b"mine")
    if as_parquet:
        pq.write_table(pa.table({"mine": [1]}), path)
    before = path.read_bytes()
    with pytest.raises(InputError, match="is no embedding table: move"):
        embed(ColourTextureEncoder(), source, tmp_path, "x", SETTINGS)
    assert path.read_bytes() == before


def test_resumes_after_sigkill(
    tmp_path, toy_dataset, tiny_model_dir, toy_table, source, model_encoder, monkeypatch
):
    killed = run_python("-c", KILLED_AT_BATCH_5, toy_dataset, tiny_model_dir, tmp_path)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    (parts,) = tmp_path.glob(".urbanln-*.parts")
    (parts / "thesis.txt").write_text("mine")
    encode, encoded = model_encoder.encode, []
    monkeypatch.setattr(model_encoder, "encode", lambda x: encoded.append(len(x)) or encode(x))
    same_table(embed(model_encoder, source, tmp_path, "urbanln", SETTINGS), toy_table)
    assert sum(encoded) == 126 + 64 - 24  # without the part that was finished
    assert [one.name for one in parts.iterdir()] == ["thesis.txt"]
    assert len(list(tmp_path.iterdir())) == 3


def test_shares_write_the_same_table(tmp_path, source, toy_table, model_encoder):
    log = []
    for number in (2, 0, 1):
        share = {"share": (number, 3), "log": log.append}
        path = embed(model_encoder, source, tmp_path, "urbanln", SETTINGS, **share)
        assert path.exists() == (number == 1)
    assert "parts of other shares are missing" in log[0]
    same_table(path, toy_table)
    assert not list(tmp_path.glob(".*"))


def test_locked_and_damaged_parts(tmp_path, source, toy_table, model_encoder):
    parts = tmp_path / f".urbanln-{read_embeddings(toy_table).metadata['fingerprint']}.parts"
    parts.mkdir()
    with (
        FileLock(parts / "street_view-000001.lock"),
        pytest.raises(InUseError, match=r"Another run .*--shard I/N"),
    ):
        embed(model_encoder, source, tmp_path, "urbanln", SETTINGS)
    embed_parts(model_encoder, source, parts, SETTINGS)
    for path, how in zip(sorted(parts.glob("*.parquet")), ("flip", "zero", "gone"), strict=False):
        damage(path, how)
    same_table(embed(model_encoder, source, tmp_path, "urbanln", SETTINGS), toy_table)
    damage(tmp_path / "urbanln.parquet", "flip")
    same_table(embed(model_encoder, source, tmp_path, "urbanln", SETTINGS), toy_table)
    assert len(list(tmp_path.glob("urbanln.parquet.damaged-*"))) == 1


@pytest.mark.slow
def test_ray_actors_write_the_same_table(tmp_path, toy_dataset, tiny_model_dir, toy_table):
    pytest.importorskip("ray", reason="Ray is in the extra `ray`")
    done = run_python(
        *("evaluate.py", "embed", "--encoder", tiny_model_dir, "--label", "urbanln"),
        *("--dataset_name", toy_dataset, "--city", CITY, "--output_dir", tmp_path),
        *("--batch_size", "8", "--chunk_size", "24", "--device", "cpu"),
        *("--backend", "ray", "--num_actors", "2"),
        RAY_USAGE_STATS_ENABLED=0,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    same_table(tmp_path / CITY / "urbanln.parquet", toy_table)


def test_at_most_two_batches_are_in_memory(tmp_path, small_source):
    count, most = Counter(), 0

    def rows(view):
        for row in small_source.open_view(view):
            count["read"] += 1
            yield row

    class Counting(ColourTextureEncoder):
        def encode(self, batch):
            nonlocal most
            count["encoded"] += len(batch)
            most = max(most, count["read"] - count["encoded"])
            return super().encode(batch)

    streamed = Source(small_source.region_ids, small_source.num_images, rows, "f", {})
    embed(Counting(), streamed, tmp_path, "x", EmbedSettings(4, 24, num_workers=1))
    assert most <= 2 * 4 + 1 + 3  # two batches, one row per thread, and the rejects


def test_missing_inputs_raise(toy_dataset, tmp_path, capsys):
    empty = Source(["a"], {"street_view": 0, "satellite": 0}, iter, "f", {})
    with pytest.raises(InputError, match="neither street views nor satellite"):
        embed(ColourTextureEncoder(), empty, tmp_path, "x")
    row = {"image_id": "i", "region_id": "a", "image": b"no"}
    bad = Source(["a"], {"street_view": 1, "satellite": 0}, lambda view: [row], "f", {})
    with pytest.raises(InputError, match=r"No image could be embedded.*unreadable"):
        embed(ColourTextureEncoder(), bad, tmp_path, "x")
    with pytest.raises(InputError, match="no such folder"):
        open_images(str(tmp_path / "none"), CITY)
    capsys.readouterr()
    where = ["--dataset_name", str(toy_dataset), "--city", "nowhere", "--output_dir", str(tmp_path)]
    assert main(["embed", "--encoder", "colour_texture", *where]) == 2
    error = capsys.readouterr().err
    assert error.startswith("evaluate.py: ")
    assert "no city 'nowhere'; it has: toytown" in error
    assert error.count("\n") == 1
