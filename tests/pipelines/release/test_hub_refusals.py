"""Errors of the Hub on the command line."""

import pickle
import shutil
from pathlib import Path

import pytest

from pipelines.common.encoders.transformers_models import load_model_encoder
from pipelines.evaluation.errors import InputError

from ...hub_server import HubServer, Repo
from ...processes import run_python


@pytest.fixture
def hub(tiny_model_dir):
    with HubServer() as server:
        files = {path.name: path.read_bytes() for path in tiny_model_dir.iterdir()}
        server.repos["models/org/tiny"] = Repo("models", "org/tiny", commits=[files])
        yield server
        server.shutdown()


@pytest.mark.parametrize(
    ("script", "model", "dataset", "fault", "code", "said"),
    [
        ("evaluate.py embed", "org/tiny", None, "config.json", 401, "answered 401 for org/tiny"),
        ("evaluate.py embed", "org/none", None, "", 0, "answered 404 for org/none"),
        # transformers reports a forbidden weight file as missing
        ("evaluate.py embed", "org/tiny", None, "model.safetensors", 403, "model.safetensors"),
        ("train.py", "org/tiny", None, "config.json", 401, "answered 401 for org/tiny"),
        ("train.py", "org/tiny", "org/none", "", 0, "org/none"),
    ],
)
def test_a_refusal_is_a_sentence(
    hub, tiny_city, tmp_path, script, model, dataset, fault, code, said
):
    if fault:
        hub.faults[fault] = [code] * 50
    command = [*script.split(), "--model_name_or_path", model]
    command += ["--dataset_name", dataset or tiny_city, "--output_dir", tmp_path / "o"]
    command += ["--city", "harborview"] if script.startswith("evaluate") else []
    done = run_python(*command, **hub.environment(tmp_path / "home"))
    assert done.returncode == 2, done.stderr[-2000:]
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert hub.token not in done.stderr


class Evil:
    """Pickle that would run code."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("pytorch_model.bin", "evil", "which may run code"),
        ("model.safetensors", b"<html>please log in</html>", "not a complete safetensors file"),
        ("model.safetensors", "half", "not a complete safetensors file"),
        (None, None, "model.safetensors"),
    ],
)
def test_weights_that_are_none_are_refused(tiny_model_dir, tmp_path, name, content, said):
    folder, proof = tmp_path / "model", tmp_path / "proof"
    shutil.copytree(tiny_model_dir, folder)
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").unlink()
    if content == "evil":
        content = pickle.dumps({"weight": Evil(proof)}, protocol=2)
    if content == "half":
        content = whole[: len(whole) // 2]
    if name is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(InputError, match=said):
        load_model_encoder(str(folder))
    assert not proof.exists()
