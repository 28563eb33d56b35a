"""Errors of the Hub become one-line messages, also through the wrappers of libraries."""

import socket

import datasets
import pytest
from huggingface_hub import HfApi

from dataset_builders.errors import DatasetError
from dataset_builders.hub_errors import explain, explained

from ..hub_server import HubServer


@pytest.fixture(autouse=True)
def _online(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)


def refusal(call):
    with pytest.raises(Exception) as caught:  # noqa: PT011 - the client raises various types
        call()
    return caught.value


@pytest.mark.parametrize(
    ("code", "said"),
    [(401, "hf auth login"), (403, "access"), (404, "check the name"), (418, "again")],
)
def test_status_codes_are_explained_through_wrappers(code, said):
    with HubServer() as hub:
        hub.faults["POST"] = [code] * 20
        error = refusal(lambda: HfApi(endpoint=hub.url, token=hub.token).create_repo("org/x"))

    def wrap():
        try:
            raise ValueError("Force download failed") from error
        except ValueError as inner:
            raise OSError("cannot load") from inner

    for one in (error, refusal(wrap)):
        sentence = explain(one, "org/x")
        assert sentence.startswith(f"The Hub answered {code} for org/x. ")
        assert said in sentence
        assert hub.token not in sentence
        assert "\n" not in sentence


def test_explains_errors_without_status_code():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        lost = refusal(lambda: HfApi(endpoint=url, token="t").create_repo("org/x"))
    assert explain(lost, "org/x").startswith("The Hub could not be reached for org/x. ")
    error = refusal(lambda: HfApi(endpoint="http://127.0.0.1:9").model_info("a/b/c"))
    assert "give org/name" in explain(error, "a/b/c")
    error = datasets.exceptions.DatasetNotFoundError("Dataset 'org/x' doesn't exist")
    assert explain(error, "org/x").startswith("The Hub has no dataset for org/x")
    for other in (OSError("disk full"), ValueError("x"), BrokenPipeError()):
        assert explain(other, "org/x") is None
    for one, code in ((lost, 1), (error, 2)):
        with pytest.raises(DatasetError, match="org/x") as caught, explained("org/x", DatasetError):
            raise one
        assert caught.value.exit_code == code
    with pytest.raises(BrokenPipeError), explained("org/x", DatasetError):
        raise other
