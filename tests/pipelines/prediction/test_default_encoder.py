import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from huggingface_hub import constants

from pipelines.common.errors import InputError
from pipelines.prediction import default_encoder as module
from pipelines.prediction import predict_regions
from pipelines.prediction.default_encoder import default_encoder, hub_is_reachable


class Hub(BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.send_response(200)
        self.end_headers()

    def log_message(self, *arguments):
        pass


@pytest.fixture
def hub(monkeypatch):
    server = HTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    monkeypatch.setattr(module, "HUB_TIMEOUT_S", 600.0)
    yield server
    server.shutdown()
    server.server_close()


def test_a_hub_that_answers_makes_the_encoder_a_choice(hub):
    assert hub_is_reachable()
    with pytest.raises(InputError, match=r"--encoder facebook/dinov2-base"):
        default_encoder(print)


def test_without_a_hub_the_encoder_of_the_wheel_is_used_and_told(hub, monkeypatch):
    told = []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert default_encoder(told.append) == "efficientnet_lite0"
    assert "No --encoder given" in told[0]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub.shutdown()
    hub.server_close()
    assert not hub_is_reachable()


def test_any_model_folder_is_an_encoder(town, tiny_model_dir):
    told = []
    found = predict_regions(
        town.photos, town.tracts, "tract", {"height": "m"}, str(tiny_model_dir), log=told.append
    )
    assert found["height_predicted"].notna().all()
    assert any(line.startswith("Encoder: ") and "16 dimensions" in line for line in told)
