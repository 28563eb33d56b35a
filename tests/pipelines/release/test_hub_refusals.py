"""Errors of the Hub, and unusable weights."""

import pickle
import shutil
from pathlib import Path

import pytest

from pipelines.common.encoders.transformers_models import load_model_encoder
from pipelines.evaluation.cli import main as evaluate
from pipelines.evaluation.errors import InputError
from train import main as train

from ...hub_server import HubServer, Repo


@pytest.mark.parametrize(
    ("command", "model", "dataset", "fault", "code", "said"),
    [
        (evaluate, "org/tiny", None, "config.json", 401, "answered 401 for org/tiny"),
        (evaluate, "org/none", None, "", 0, "answered 404 for org/none"),
        # transformers reports a forbidden weight file as missing
        (evaluate, "org/tiny", None, "model.safetensors", 403, "model.safetensors"),
        (train, "org/tiny", None, "config.json", 401, "answered 401 for org/tiny"),
        (train, "org/tiny", "org/none", "", 0, "org/none"),
    ],
)
def test_errors_of_the_hub_are_reported_without_a_traceback(
    tiny_model_dir, small_city, tmp_path, monkeypatch, capsys,
    command, model, dataset, fault, code, said,
):  # fmt: skip
    flags = ["--model_name_or_path", model, "--dataset_name", dataset or str(small_city)]
    flags += ["--output_dir", str(tmp_path / "out")]
    with HubServer() as hub:
        hub.connect(monkeypatch, tmp_path / "cache")
        files = {path.name: path.read_bytes() for path in tiny_model_dir.iterdir()}
        hub.repos["models/org/tiny"] = Repo("models", "org/tiny", commits=[files])
        hub.faults[fault or "nothing"] = [code] * 50
        words = ["embed", "--city", "harborview"] if command is evaluate else []
        assert command([*words, *flags]) == 2
        hub.shutdown()
    told = capsys.readouterr().err
    assert said in told
    assert hub.token not in told


class Evil:
    """Pickle that would run code."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_pickled_truncated_or_missing_weights_are_rejected(tiny_model_dir, tmp_path):
    folder, proof = tmp_path / "model", tmp_path / "proof"
    shutil.copytree(tiny_model_dir, folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100_000])
    with pytest.raises(InputError, match="not a complete safetensors file"):
        load_model_encoder(str(folder))
    weights.unlink()
    with pytest.raises(InputError, match=r"model\.safetensors"):
        load_model_encoder(str(folder))
    pickled = pickle.dumps({"weight": Evil(proof)}, protocol=2)
    (folder / "pytorch_model.bin").write_bytes(pickled)
    with pytest.raises(InputError, match="which may run code"):
        load_model_encoder(str(folder))
    assert not proof.exists()
