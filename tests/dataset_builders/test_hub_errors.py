"""Errors of the Hub become one-line messages, also through the wrappers of libraries."""

import socket

import datasets
import pytest
from huggingface_hub import HfApi

from dataset_builders.hub_errors import explain

from ..hub_server import HubServer


@pytest.fixture(autouse=True)
def _online(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)


@pytest.fixture
def hub():
    with HubServer() as server:
        yield server
        server.shutdown()


def refusal(call):
    with pytest.raises(Exception) as caught:  # noqa: PT011 - the client raises various types
        call()
    return caught.value


@pytest.mark.parametrize(
    ("code", "said"),
    [(401, "hf auth login"), (403, "access"), (404, "check the name"), (418, "again")],
)
def test_an_answer_is_told_with_what_to_do(hub, code, said):
    hub.faults["POST"] = [code] * 20
    error = refusal(lambda: HfApi(endpoint=hub.url, token=hub.token).create_repo("org/x"))
    sentence = explain(error, "org/x")
    assert sentence.startswith(f"The Hub answered {code} for org/x. ")
    assert said in sentence
    assert hub.token not in sentence
    assert "\n" not in sentence


def test_a_code_is_found_through_wrappers(hub):
    hub.faults["POST"] = [401]
    inner = refusal(lambda: HfApi(endpoint=hub.url, token=hub.token).create_repo("org/x"))

    def wrap():
        try:
            raise ValueError("Force download failed") from inner
        except ValueError as error:
            raise OSError("cannot load") from error

    assert explain(refusal(wrap)).startswith("The Hub answered 401. ")


def test_a_hub_that_is_not_there_is_told(hub):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    error = refusal(lambda: HfApi(endpoint=url, token="t").create_repo("org/x"))
    assert explain(error, "org/x").startswith("The Hub could not be reached for org/x. ")


def test_a_wrong_name_is_told():
    error = refusal(lambda: HfApi(endpoint="http://127.0.0.1:9").model_info("a/b/c"))
    assert "give org/name" in explain(error, "a/b/c")


def test_a_dataset_that_is_not_there_is_told():
    error = datasets.exceptions.DatasetNotFoundError("Dataset 'org/x' doesn't exist")
    assert explain(error, "org/x").startswith("The Hub has no dataset for org/x")


@pytest.mark.parametrize("error", [OSError("disk full"), ValueError("x"), BrokenPipeError()])
def test_what_is_no_matter_of_the_hub_is_left_alone(error):
    assert explain(error, "org/x") is None
