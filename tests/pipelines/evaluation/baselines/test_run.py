"""`evaluate.py baseline`: recipes, and from a dataset folder to an embedding table."""

import numpy as np
import pytest

from pipelines.evaluation.baselines import registry, tile2vec
from pipelines.evaluation.baselines.registry import SIZES, SYSTEMS, make, read_settings
from pipelines.evaluation.baselines.run import run_baseline
from pipelines.evaluation.cli import main
from pipelines.evaluation.embed.tables import read_embeddings
from pipelines.evaluation.errors import InputError
from tests.pipelines.evaluation.toy import CITY, build_toy

TINY = {"image_size": 32, "widths": [8, 16], "depths": [1, 1], "epochs": 1}


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return build_toy(tmp_path_factory.mktemp("toy") / "dataset", side=4)


def _run(toy, output, **options):
    arguments = {"seed": 0, "overrides": TINY, "log": lambda line: None, **options}
    return run_baseline("tile2vec", "cpu", str(toy), CITY, output, **arguments)


@pytest.mark.parametrize("size", SIZES)
def test_every_recipe_makes_its_system(size):
    assert sorted(path.stem for path in registry.RECIPES.glob("*.yaml")) == sorted(SYSTEMS)
    for name in SYSTEMS:
        system, other = (make(name, size, seed=seed) for seed in (3, 4))
        assert other.fingerprint != system.fingerprint
        if not name.startswith("urban"):
            assert any("Another size" in one for one in system.provenance.differs) == (
                size == "cpu"
            )


@pytest.mark.parametrize(
    ("name", "size", "overrides", "message"),
    [
        ("zzz", "cpu", {}, "no system 'zzz'. There are: musecl-nomob, "),
        ("remoteclip", "cpu", {}, "frozen encoder.*embed --encoder BiliSakura"),
        ("tile2vec", "huge", {}, "--size must be one of paper, cpu, got 'huge'"),
        ("tile2vec", "cpu", {"view": "thermal"}, "`view` must be one of .*got 'thermal'"),
        ("tile2vec", "cpu", {"depths": [1]}, "one number per stage"),
        ("pg-simclr", "cpu", {"positives": ["poi", "poi"]}, "each once; got"),
        ("urbanclip", "cpu", {"batch_size": 1}, "batch_size must be at least 2, got 1"),
    ],
)
def test_invalid_settings_raise(name, size, overrides, message):
    with pytest.raises(InputError, match=message):
        make(name, size, **overrides)


def test_invalid_recipes_raise(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "RECIPES", tmp_path)
    for recipe, message in (
        ("{cpu: {}, paper: {batch_sise: 3}}", r"tile2vec\.yaml.*'batch_sise'.*'batch_size'"),
        ("{cpu: {}, papr: {}}", r"'papr'.* Did you mean 'paper'"),
    ):
        (tmp_path / "tile2vec.yaml").write_text(recipe)
        with pytest.raises(InputError, match=message):
            read_settings("tile2vec", "paper")


def test_table_has_vectors_and_provenance_and_is_kept(toy, tmp_path, monkeypatch):
    path = _run(toy, tmp_path)
    assert path == tmp_path / CITY / "tile2vec.parquet"
    table = read_embeddings(path)
    assert table.label == "tile2vec"
    assert table.has("satellite").all()
    assert not table.has("street_view").any()
    assert table.matrix("satellite").shape == (16, 16)
    metadata = table.metadata
    assert metadata["uses"] == ["coordinates", "satellite"]
    assert metadata["pretrained"] == "random weights"
    assert metadata["synthetic"] is True
    assert metadata["settings"]["widths"] == [8, 16]
    assert metadata["images"] == {"satellite": 16}
    assert "equation 1" in metadata["provenance"]["source"]
    assert "images of 32 pixels, not 224" in metadata["provenance"]["differs"][-1]
    # another label beside it, another seed in its place
    labelled = read_embeddings(_run(toy, tmp_path, label="other"))
    assert labelled.hash == table.hash
    lines: list[str] = []
    other = read_embeddings(_run(toy, tmp_path, seed=1, log=lines.append))
    assert "will be replaced" in lines[0]
    assert other.hash != table.hash
    before = path.read_bytes(), path.stat().st_mtime_ns

    def forbidden(self, data):
        raise AssertionError("fitted again")

    monkeypatch.setattr(tile2vec.SYSTEM, "fit", forbidden)
    assert _run(toy, tmp_path, seed=1, log=lines.append) == path
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    assert "already exists" in lines[-1]
    with pytest.raises(AssertionError, match="fitted again"):
        _run(toy, tmp_path, seed=1, overrides={**TINY, "margin": 5.0})


def test_missing_vectors_raise(toy, tmp_path, monkeypatch):
    missing = {"satellite": np.full((16, 4), np.nan, dtype=np.float32)}
    monkeypatch.setattr(tile2vec.SYSTEM, "encode", lambda self, data: missing)
    with pytest.raises(InputError, match="no satellite vector for 16 regions, but 0 have"):
        _run(toy, tmp_path)
    assert not (tmp_path / CITY).exists()


def test_command_fits_a_system_that_uses_points_of_interest(tmp_path, capsys):
    from dataset_builders.synthetic import build_dataset

    town = build_dataset(tmp_path / "town", ["oldgate"], 3, 1, num_workers=1)
    words = [f"{key}={value}" for key, value in TINY.items()]
    flags = ["--dataset_name", str(town), "--city", "oldgate", "--output_dir", str(tmp_path)]
    flags += ["--device", "cpu", "--settings", *words]
    assert main(["baseline", "--system", "tile2vec", *flags]) == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "pixels").rglob("*.npy")}
    assert len(before) == 2
    assert main(["baseline", "--system", "pg-simclr", *flags, "simclr_epochs=1"]) == 0
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "pixels").rglob("*.npy")}
    told = capsys.readouterr().out
    assert "9 regions, 32 dimensions" in told
    assert "uses coordinates, poi, satellite" in told
    metadata = read_embeddings(tmp_path / "oldgate" / "pg-simclr.parquet").metadata
    assert metadata["uses"] == ["coordinates", "poi", "satellite"]


def test_command_rejects_invalid_flags(toy, tmp_path, capsys):
    given = ["--dataset_name", str(toy), "--city", CITY, "--output_dir", str(tmp_path)]
    for flags, message in (
        ([], "--system is missing"),
        (["--system", "tile2vek"], "Did you mean 'tile2vec'"),
        (["--system", "tile2vec", "--settings", "margin"], "--settings takes key=value"),
        (["--system", "tile2vec", "--settings", "margn=3"], "Did you mean 'margin'"),
    ):
        assert main(["baseline", *given, *flags]) == 2
        assert message in capsys.readouterr().err


def test_frozen_encoders_are_embedded_under_their_label(toy, tmp_path, tiny_model_dir):
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
