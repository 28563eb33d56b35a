"""`evaluate.py baseline`: from a dataset folder to an embedding table."""

import numpy as np
import pytest

from dataset_builders.synthetic import build_dataset
from pipelines.evaluation.baselines import run, tile2vec
from pipelines.evaluation.baselines.run import run_baseline
from pipelines.evaluation.cli import main
from pipelines.evaluation.embed.tables import read_embeddings
from pipelines.evaluation.errors import InputError
from tests.pipelines.evaluation.toy import CITY, build_toy

TINY = {"image_size": 32, "widths": [8, 16], "depths": [1, 1], "epochs": 1}
WORDS = [f"{key}={value}" for key, value in TINY.items()]


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return build_toy(tmp_path_factory.mktemp("toy") / "dataset", side=5)


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    root = tmp_path_factory.mktemp("town")
    return build_dataset(root, ["oldgate"], 4, 1, num_workers=1)


def _run(toy, output, **options):
    arguments = {"seed": 0, "overrides": TINY, "log": lambda line: None, **options}
    return run_baseline("tile2vec", "cpu", str(toy), CITY, output, **arguments)


def test_the_table_holds_vectors_and_says_how_they_were_made(toy, tmp_path):
    path = _run(toy, tmp_path)
    assert path == tmp_path / CITY / "tile2vec.parquet"
    table = read_embeddings(path)
    assert table.label == "tile2vec"
    assert table.has("satellite").all()
    assert not table.has("street_view").any()
    assert table.matrix("satellite").shape == (25, 16)
    metadata = table.metadata
    assert metadata["uses"] == ["coordinates", "satellite"]
    assert metadata["pretrained"] == "random weights"
    assert metadata["synthetic"] is True
    assert metadata["settings"]["widths"] == [8, 16]
    assert metadata["seed"] == 0
    assert metadata["images"] == {"satellite": 25}
    assert metadata["seconds"] > 0
    assert "equation 1" in metadata["provenance"]["source"]
    differs = metadata["provenance"]["differs"]
    assert len(differs) == 4
    assert "images of 32 pixels, not 224; a ResNet of widths (8, 16)" in differs[-1]


def test_a_second_run_computes_nothing(toy, tmp_path, monkeypatch):
    path = _run(toy, tmp_path)
    before = path.read_bytes(), path.stat().st_mtime_ns

    def forbidden(self, data):
        raise AssertionError("it was fitted again")

    monkeypatch.setattr(tile2vec.SYSTEM, "fit", forbidden)
    lines: list[str] = []
    assert _run(toy, tmp_path, log=lines.append) == path
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    assert "already exists" in lines[0]
    for change in ({"seed": 1}, {"overrides": {**TINY, "margin": 5.0}}):
        with pytest.raises(AssertionError, match="fitted again"):
            _run(toy, tmp_path, **change)


def test_another_seed_replaces_the_table_and_a_label_stands_beside(toy, tmp_path):
    first = read_embeddings(_run(toy, tmp_path))
    lines: list[str] = []
    second = read_embeddings(_run(toy, tmp_path, seed=1, log=lines.append))
    assert "will be replaced" in lines[0]
    assert second.hash != first.hash
    assert second.metadata["fingerprint"] != first.metadata["fingerprint"]
    labelled = _run(toy, tmp_path, label="tile2vec-seed0")
    assert labelled.name == "tile2vec-seed0.parquet"
    assert read_embeddings(labelled).hash == first.hash


def test_a_file_that_is_no_table_is_not_replaced(toy, tmp_path):
    path = tmp_path / CITY / "tile2vec.parquet"
    path.parent.mkdir()
    path.write_bytes(b"no table")
    with pytest.raises(InputError, match="is no embedding table: move it away"):
        _run(toy, tmp_path)
    assert path.read_bytes() == b"no table"


def test_systems_share_the_decoded_pixels(toy, tmp_path):
    _run(toy, tmp_path, cache_dir=tmp_path / "pixels")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "pixels").rglob("*.npy")}
    run_baseline(
        "simclr-adjacency",
        "cpu",
        str(toy),
        CITY,
        tmp_path,
        cache_dir=tmp_path / "pixels",
        overrides={**TINY, "simclr_epochs": 1},
        log=lambda line: None,
    )
    assert len(before) == 2
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "pixels").rglob("*.npy")}


def test_a_fused_system_has_one_vector_of_both_views_and_says_it_saw_poi(town, tmp_path):
    overrides = {**TINY, "dim": 8, "num_triplets": 32, "satellite_epochs": 1}
    overrides |= {"street_view_epochs": 1, "fusion_epochs": 1}
    del overrides["epochs"]
    path = run_baseline("musecl-nomob", "cpu", str(town), "oldgate", tmp_path, overrides=overrides)
    table = read_embeddings(path)
    assert table.matrix("both").shape == (16, 8)
    assert table.has("both").all()
    assert not table.has("satellite").any()
    assert table.metadata["uses"] == ["poi", "satellite", "street_view"]
    assert table.metadata["encoder"] == "musecl-nomob"


def test_synthetic_points_of_interest_reach_pg_simclr(town, tmp_path, capsys):
    words = [*WORDS, "simclr_epochs=1"]
    flags = ["--dataset_name", str(town), "--city", "oldgate", "--output_dir", str(tmp_path)]
    status = main(
        ["baseline", "--system", "pg-simclr", *flags, "--settings", *words, "--device", "cpu"]
    )
    assert status == 0
    told = capsys.readouterr().out
    assert "16 regions, 32 dimensions" in told
    assert "uses coordinates, poi, satellite" in told
    metadata = read_embeddings(tmp_path / "oldgate" / "pg-simclr.parquet").metadata
    assert metadata["uses"] == ["coordinates", "poi", "satellite"]
    assert metadata["settings"]["widths"] == [8, 16]


def test_vectors_that_are_missing_are_no_table(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(
        tile2vec.SYSTEM,
        "encode",
        lambda self, data: {"satellite": np.full((25, 4), np.nan, dtype=np.float32)},
    )
    with pytest.raises(run.InputError, match="no satellite vector for 25 regions, but 0 have"):
        _run(toy, tmp_path)
    assert not (tmp_path / CITY).exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--system is missing"),
        (["--system", "tile2vek"], "Did you mean 'tile2vec'"),
        (["--system", "tile2vec", "--settings", "margin"], "--settings takes key=value"),
        (["--system", "tile2vec", "--settings", "margn=3"], "Did you mean 'margin'"),
        (["--system", "tile2vec", "--label", "a/b"], "--label must be made of letters"),
        (["--system", "tile2vec", "--seed", "-1"], "--seed must be at least 0"),
        (["--system", "tile2vec", "--size", "big"], "invalid choice: 'big'"),
        (["--system", "pg-simclr"], "Use --system simclr-adjacency instead"),
    ],
)
def test_the_command_tells_what_is_wrong(toy, tmp_path, capsys, flags, message):
    given = ["--dataset_name", str(toy), "--city", CITY, "--output_dir", str(tmp_path)]
    assert main(["baseline", *given, *flags]) == 2
    assert message in capsys.readouterr().err


def test_a_frozen_encoder_is_embedded_under_its_label(toy, tmp_path, tiny_model_dir):
    given = ["--dataset_name", str(toy), "--city", CITY, "--output_dir", str(tmp_path)]
    folder = ["--settings", f"model_name_or_path={tiny_model_dir}", "--device", "cpu"]
    assert main(["baseline", "--system", "clip", *given, *folder]) == 0
    assert main(["baseline", "--system", "clip-random", "--seed", "1", *given, *folder]) == 0
    embed = ["embed", "--encoder", str(tiny_model_dir), "--label", "same", "--device", "cpu"]
    assert main([*embed, *given]) == 0
    clip, drawn, same = (
        read_embeddings(tmp_path / CITY / f"{label}.parquet")
        for label in ("clip", "clip-random", "same")
    )
    assert clip.label == "clip"
    assert clip.hash == same.hash != drawn.hash
    assert drawn.metadata["random_init"]
    assert main(["baseline", "--system", "clip", *given, "--settings", "width=3"]) == 2


def test_help_of_the_command_teaches(capsys):
    with pytest.raises(SystemExit):
        main(["baseline", "--help"])
    told = capsys.readouterr().out
    assert "python evaluate.py baseline --system tile2vec" in told
    assert "that override the recipe" in " ".join(told.split())
    assert "urbanvlp-nocoord" in told
