import os
import signal
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModel

from dataset_builders.errors import InUseError
from dataset_builders.images import BadImageError, decode_image
from dataset_builders.storage import iter_images
from pipelines.common.encoders.colour_texture import COLOUR_TEXTURE_DIM, ColourTextureEncoder
from pipelines.common.encoders.transformers_models import load_model_encoder
from pipelines.evaluation.embed import images as embedding
from pipelines.evaluation.embed.images import EmbedSettings, Source, embed
from pipelines.evaluation.embed.sources import open_images
from pipelines.evaluation.embed.tables import read_embeddings
from pipelines.evaluation.errors import InputError
from tests.damage import damage
from tests.pipelines.evaluation.toy import CITY, build_toy
from tests.processes import ROOT, run_python, start_python

SETTINGS = EmbedSettings(batch_size=8, chunk_size=24, num_workers=2)


@pytest.fixture(scope="module")
def model_encoder(tiny_model_dir):
    return load_model_encoder(str(tiny_model_dir))


@pytest.fixture(scope="module")
def toy_table(tmp_path_factory, toy_dataset, model_encoder):
    folder = tmp_path_factory.mktemp("embeddings")
    return embed(model_encoder, open_images(str(toy_dataset), CITY), folder, "urbanln", SETTINGS)


def without_seconds(table):
    return {**table.metadata, "seconds": None}


def one_by_one(encoder, dataset, view):
    """Mean vectors by region, without batching and streaming."""
    vectors = {}
    for row in iter_images(dataset, CITY, view):
        try:
            image = decode_image(row["image"])
        except BadImageError:
            continue
        vector = encoder.encode(encoder.prepare(image)[None])[0]
        vectors.setdefault(row["region_id"], []).append(vector)
    return {region_id: np.mean(v, axis=0) for region_id, v in vectors.items()}


@pytest.mark.parametrize("view", ["street_view", "satellite"])
def test_vectors_are_the_means_of_a_regions_images(view, toy_table, toy_dataset, model_encoder):
    table = read_embeddings(toy_table)
    expected = one_by_one(model_encoder, toy_dataset, view)
    expected.pop("elsewhere", None)
    has = table.has(view)
    assert {i for i, ok in zip(table.region_ids, has, strict=True) if ok} == set(expected)
    for region_id, vector in zip(table.region_ids, table.vectors[view], strict=True):
        if region_id in expected:
            np.testing.assert_allclose(vector, expected[region_id], atol=1e-5)


def test_features_are_the_models_projected_and_not_normalised(tiny_model_dir, model_encoder):
    model = AutoModel.from_pretrained(tiny_model_dir).eval()
    pixel_values = torch.randn(2, 3, 30, 30)
    with torch.no_grad():
        expected = model.get_image_features(pixel_values).pooler_output
    vectors = model_encoder.encode(pixel_values)
    np.testing.assert_allclose(vectors, expected, atol=1e-6)
    assert not np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=0.01)


def test_bad_images_are_counted_and_nothing_else_is_lost(toy_table):
    rejects = pq.read_table(toy_table.with_name("urbanln.rejects.parquet")).to_pylist()
    assert {row["item"]: row["reason"] for row in rejects} == {
        "street-bad": "unreadable",
        "street-empty": "empty",
        "street-stray": "unknown_region",
    }
    table = pq.read_table(toy_table)
    assert table["n_street_views"].to_pylist() == [0] + [2] * 63
    assert table["street_view"].null_count == 1
    assert table["satellite"].null_count == 0
    metadata = read_embeddings(toy_table).metadata
    assert metadata["regions_without"] == {"street_view": 1, "satellite": 0}
    assert sum(metadata["rejects"].values()) == 3
    assert metadata["synthetic"] is True


def test_a_finished_table_is_left_alone_and_another_encoder_replaces_it(
    tmp_path, toy_dataset, model_encoder
):
    source, log = open_images(str(toy_dataset), CITY), []
    path = embed(model_encoder, source, tmp_path, "x", SETTINGS, log.append)
    before = path.stat().st_mtime_ns
    embed(model_encoder, source, tmp_path, "x", SETTINGS, log.append)
    assert path.stat().st_mtime_ns == before
    assert "already exists" in log[-1]
    embed(ColourTextureEncoder(), source, tmp_path, "x", SETTINGS, log.append)
    assert any("will be replaced" in line for line in log)
    assert read_embeddings(path).metadata["dim"] == COLOUR_TEXTURE_DIM
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


@pytest.mark.parametrize("as_parquet", [True, False])
def test_a_table_of_somebody_else_is_not_replaced(tmp_path, toy_dataset, as_parquet):
    path = tmp_path / "x.parquet"
    path.write_bytes(b"mine")
    if as_parquet:
        pq.write_table(pa.table({"mine": [1]}), path)
    before = path.read_bytes()
    source, encoder = open_images(str(toy_dataset), CITY), ColourTextureEncoder()
    with pytest.raises(InputError, match="is no embedding table: move"):
        embed(encoder, source, tmp_path, "x", SETTINGS)
    assert path.read_bytes() == before


KILLS = [
    ("embed._add_batch", 5),  # in the middle of a part
    ("os.fsync", 3),  # a part is written but not renamed
    ("embed._remove_parts", 1),  # the table exists, and so do the parts
]


@pytest.mark.parametrize(("where", "n"), KILLS)
def test_killed_and_run_again_ends_with_the_same_table(
    where, n, tmp_path, toy_dataset, tiny_model_dir, toy_table, model_encoder
):
    script = "tests.pipelines.evaluation.embed.kill_embed"
    killed = run_python("-m", script, toy_dataset, tiny_model_dir, tmp_path, where, n)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    again = embed(model_encoder, open_images(str(toy_dataset), CITY), tmp_path, "urbanln", SETTINGS)
    same_table(again, toy_table)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        *("urbanln.parquet", "urbanln.rejects.parquet")
    ]


def test_parts_that_are_there_are_not_encoded_again(tmp_path, toy_dataset, monkeypatch):
    source, encoder = open_images(str(toy_dataset), CITY), ColourTextureEncoder()
    original, calls = embedding._add_batch, Counter()

    def stop_at_six(*args):
        calls["n"] += 1
        if calls["n"] == 6:
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(embedding, "_add_batch", stop_at_six)
    with pytest.raises(KeyboardInterrupt):
        embed(encoder, source, tmp_path, "x", SETTINGS)
    (parts,) = tmp_path.glob(".x-*.parts")
    (parts / "thesis.txt").write_text("mine")
    calls["n"] = 100
    embed(encoder, source, tmp_path, "x", SETTINGS)
    assert [one.name for one in parts.iterdir()] == ["thesis.txt"]
    total = -(-129 // 24) * 3 + -(-64 // 24) * 3  # about three batches per part
    assert calls["n"] - 100 <= total - 3  # one part of three batches was kept


def same_table(path, other):
    assert pq.read_table(path).equals(pq.read_table(other))
    assert without_seconds(read_embeddings(path)) == without_seconds(read_embeddings(other))
    rejects = "urbanln.rejects.parquet"
    assert path.with_name(rejects).read_bytes() == other.with_name(rejects).read_bytes()


def test_shares_make_the_same_table(tmp_path, toy_dataset, toy_table, model_encoder):
    source, log = open_images(str(toy_dataset), CITY), []
    for number in (2, 0, 1):
        path = embed(
            model_encoder, source, tmp_path, "urbanln", SETTINGS, log.append, share=(number, 3)
        )
        assert path.exists() == (number == 1)
    assert "parts of other shares are missing" in log[0]
    same_table(path, toy_table)
    assert not list(tmp_path.glob(".*"))


def test_a_second_process_on_the_same_part_is_refused(
    tmp_path, toy_dataset, toy_table, model_encoder
):
    source = open_images(str(toy_dataset), CITY)
    fingerprint = read_embeddings(toy_table).metadata["fingerprint"]
    parts = tmp_path / f".urbanln-{fingerprint}.parts"
    parts.mkdir()
    hold = (
        "import sys, time; from filelock import FileLock\n"
        "with FileLock(sys.argv[1]): print('held', flush=True); time.sleep(600)"
    )
    lock = parts / "street_view-000001.lock"
    holder, said = start_python("-c", hold, lock, output=tmp_path / "said"), tmp_path / "said.out"
    try:
        while not said.exists() or "held" not in said.read_text():
            assert holder.is_alive()
            time.sleep(0.01)
        with pytest.raises(InUseError, match=r"Another run .*--shard I/N"):
            embed(model_encoder, source, tmp_path, "urbanln", SETTINGS)
    finally:
        holder.kill()
        holder.join()
    same_table(embed(model_encoder, source, tmp_path, "urbanln", SETTINGS), toy_table)


def test_damaged_parts_and_tables_are_made_again(tmp_path, toy_dataset, toy_table, model_encoder):
    source = open_images(str(toy_dataset), CITY)
    parts = tmp_path / f".urbanln-{read_embeddings(toy_table).metadata['fingerprint']}.parts"
    embedding.embed_parts(model_encoder, source, parts, SETTINGS)
    for path, how in zip(sorted(parts.glob("*.parquet")), ("flip", "zero", "gone"), strict=False):
        damage(path, how)
    same_table(embed(model_encoder, source, tmp_path, "urbanln", SETTINGS), toy_table)
    damage(tmp_path / "urbanln.parquet", "flip")
    same_table(embed(model_encoder, source, tmp_path, "urbanln", SETTINGS), toy_table)
    assert len(list(tmp_path.glob("urbanln.parquet.damaged-*"))) == 1


@pytest.mark.slow
def test_ray_actors_make_the_same_table(tmp_path, toy_dataset, tiny_model_dir, toy_table):
    pytest.importorskip("ray", reason="Ray is in the extra `ray`")
    command = [
        *(sys.executable, "evaluate.py", "embed", "--encoder", str(tiny_model_dir)),
        *("--dataset_name", str(toy_dataset), "--city", CITY, "--output_dir", str(tmp_path)),
        *("--label", "urbanln", "--batch_size", "8", "--chunk_size", "24", "--device", "cpu"),
        *("--backend", "ray", "--num_actors", "2"),
    ]
    done = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"RAY_USAGE_STATS_ENABLED": "0"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    same_table(tmp_path / CITY / "urbanln.parquet", toy_table)


def test_no_more_images_are_held_than_two_batches(tmp_path, model_encoder, toy_dataset):
    source = open_images(str(toy_dataset), CITY)
    alive, most = Counter(), 0

    def rows(view):
        for row in source.open_view(view):
            alive["read"] += 1
            yield row

    class Counting(ColourTextureEncoder):
        def encode(self, batch):
            nonlocal most
            alive["encoded"] += len(batch)
            most = max(most, alive["read"] - alive["encoded"])
            return super().encode(batch)

    settings = EmbedSettings(batch_size=4, chunk_size=24, num_workers=1)
    streamed = Source(
        source.region_ids, source.num_images, rows, source.fingerprint, source.description
    )
    embed(Counting(), streamed, tmp_path, "x", settings)
    assert most <= 2 * 4 + 1 + 3  # two batches, one row per thread, and the rejects


def test_non_finite_vectors_are_rejected(tmp_path, toy_dataset):
    class Broken(ColourTextureEncoder):
        def encode(self, batch):
            vectors = super().encode(batch).copy()
            vectors[0] = np.nan
            return vectors

    path = embed(Broken(), open_images(str(toy_dataset), CITY), tmp_path, "x", SETTINGS)
    reasons = Counter(
        row["reason"] for row in pq.read_table(tmp_path / "x.rejects.parquet").to_pylist()
    )
    assert reasons["not_finite"] > 0
    assert np.isfinite(read_embeddings(path).matrix("satellite")[1]).all()


def test_nothing_to_embed_is_an_error(tmp_path):
    empty = Source(["a"], {"street_view": 0, "satellite": 0}, iter, "f", {})
    with pytest.raises(InputError, match="neither street views nor satellite"):
        embed(ColourTextureEncoder(), empty, tmp_path, "x")
    row = {"image_id": "i", "region_id": "a", "image": b"no"}
    bad = Source(["a"], {"street_view": 1, "satellite": 0}, lambda view: [row], "f", {})
    with pytest.raises(InputError, match=r"No image could be embedded.*unreadable"):
        embed(ColourTextureEncoder(), bad, tmp_path, "x")


def test_another_city_or_dataset_is_named(toy_dataset, tmp_path):
    with pytest.raises(InputError, match="no city 'elsewhere'; it has: toytown"):
        open_images(str(toy_dataset), "elsewhere")
    with pytest.raises(InputError, match="no such folder"):
        open_images(str(tmp_path / "none"), CITY)


def test_changed_images_change_the_fingerprint(toy_dataset, tmp_path):
    one = open_images(str(toy_dataset), CITY).fingerprint
    assert open_images(str(build_toy(tmp_path / "same")), CITY).fingerprint == one
    assert open_images(str(build_toy(tmp_path / "more", street_views=3)), CITY).fingerprint != one
