import pytest
from huggingface_hub import constants

from pipelines.common.errors import InputError
from pipelines.prediction import vectors
from tests.hub_server import HubServer


def test_default_encoder_depends_on_access_to_the_hub(monkeypatch, tmp_path):
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    monkeypatch.setattr(vectors, "HUB_TIMEOUT_S", 600.0)
    told = []
    with HubServer() as hub:
        hub.connect(monkeypatch, tmp_path)
        with pytest.raises(InputError, match=r"--encoder facebook/dinov2-base"):
            vectors._default_encoder(told.append)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert vectors._default_encoder(told.append) == "efficientnet_lite0"
        hub.shutdown()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    assert vectors._default_encoder(told.append) == "efficientnet_lite0"
    assert ["No --encoder given" in line for line in told] == [True, True]
