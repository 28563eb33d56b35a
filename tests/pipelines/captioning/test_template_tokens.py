"""Handling of chat template tokens and control characters in answers."""

import json
import re
from dataclasses import replace

import pytest

from pipelines.captioning.recipe import make_recipe
from pipelines.captioning.run import run
from pipelines.captioning.simulated import SimulatedCaptionModel

from .runs import recipe_values, rejects, table

UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]")
MODELS = ("synthetic-amber", "synthetic-cedar", "synthetic-basalt")
RUN = {
    "models": [{"name": name, "client": "simulated"} for name in MODELS],
    "generate": {"captions_per_model": 1},
    "max_images": 1,
    "views": ["street_view"],
}


def leaking(text, model, task):
    """Add control characters and template tokens, as servers with a wrong template do."""
    noisy = f"\u202e{text[:5]}\x00{text[5:]}\x07"
    if model == MODELS[0]:
        return f"<|im_start|>assistant\n{noisy}<|im_end|>"
    if model == MODELS[1] or task == "local":
        return f"{noisy}<|endoftext|> {text}"
    return noisy


@pytest.fixture(scope="module")
def leaked(city_with_truth, tmp_path_factory):
    """Output folder of a run with such models, and its recipe."""
    answer = SimulatedCaptionModel.complete

    async def complete(self, request):
        reply = await answer(self, request)
        return replace(reply, text=leaking(reply.text, self.name, request.task))

    output = tmp_path_factory.mktemp("leaked")
    recipe = make_recipe(recipe_values(city_with_truth, output, **RUN))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SimulatedCaptionModel, "complete", complete)
        assert run(recipe).finished
    return output, recipe


@pytest.fixture(scope="module")
def clean(city_with_truth, tmp_path_factory):
    """Rows by model of the same run with unchanged answers."""
    output = tmp_path_factory.mktemp("clean")
    assert run(make_recipe(recipe_values(city_with_truth, output, **RUN))).finished
    return {row["model"]: row for row in table(output)}


def test_wrapping_tokens_are_removed_and_inner_tokens_drop_the_answer(leaked, clean):
    rows = {row["model"]: row for row in table(leaked[0])}
    bare, overlong, other = (rows[name] for name in MODELS)
    assert bare["kept"]
    assert "template_removed" in json.loads(bare["flags"])
    assert bare["text"] == clean[MODELS[0]]["text"]
    assert bare["details"] == clean[MODELS[0]]["details"]
    assert not overlong["kept"]
    assert overlong["drop_reason"] == "template_token"
    assert other["kept"]
    details = json.loads(other["details"])
    assert details
    assert {(one["text"], one["reason"]) for one in details} == {("", "template_token")}
    counted = [one["model"] for one in rejects(leaked[0]) if one["reason"] == "template_token"]
    assert counted.count(MODELS[2]) == len(details)


def test_control_characters_are_not_stored(leaked):
    rows = [*table(leaked[0]), *rejects(leaked[0])]
    texts = [value for row in rows for value in row.values() if isinstance(value, str)]
    texts += [one["text"] for row in table(leaked[0]) for one in json.loads(row["details"])]
    assert not [text for text in texts if UNSEEN.search(text)]
    # the generated text shows why its caption was dropped
    assert (
        "<|endoftext|>" in {row["model"]: row for row in table(leaked[0])}[MODELS[1]]["generated"]
    )
