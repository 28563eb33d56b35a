import json
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.common.encoders.transformers_models import load_model_encoder

from .harness import TEXTS, altered, damaged, inputs, knock

FILES = ("config.json", "processor_config.json", "model.safetensors")
SMALL = st.none() | st.booleans() | st.integers(-9, 99) | st.floats() | TEXTS


@pytest.fixture(scope="module")
def model(tiny_model_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "model"
    shutil.copytree(tiny_model_dir, folder)
    assert load_model_encoder(str(folder))
    return folder, {name: (folder / name).read_bytes() for name in FILES}


@inputs(4, long=100)
@given(data=st.data())
def test_folders_of_models(model, data):
    folder, whole = model
    for name, content in whole.items():
        if name.endswith(".json"):
            content = json.dumps(data.draw(altered(json.loads(content), SMALL))).encode()
        (folder / name).write_bytes(data.draw(st.just(content) | damaged(content)))
    knock("folders of models", lambda: load_model_encoder(str(folder)))
