"""The card says what the run's files say, and its examples run."""

import json
import re
import shutil

import pytest
import torch
import yaml
from huggingface_hub import ModelCard

import modeling_urbanln  # noqa: F401 - registers the task
from pipelines.release.__main__ import main
from pipelines.release.errors import ReleaseError
from pipelines.release.model_card import write_model_card
from pipelines.release.runs import read_run

SUMMARY = {
    "steps": 250, "seconds": 229.7, "num_processes": 1, "device": "cpu",
    "num_parameters": 5_846_145, "num_trained_parameters": 5_846_145, "num_train": 1620,
    "num_validation": 180, "num_rejected": 3, "num_truncated_captions": 18,
    "truncation_rate": 0.01, "longest_caption_tokens": 260, "max_length": 248,
    "dataset_name": "", "split_column": "split_block",
}  # fmt: skip


def row(system, view, r2, protocol="block", probe="ridge", synthetic=False, indicator="gdp"):
    return {
        "system": system, "view": view, "indicator": indicator, "protocol": protocol,
        "probe": probe, "r2": r2, "n_test": 100, "synthetic": synthetic,
    }  # fmt: skip


def write_results(folder, rows, city="lyon"):
    (folder / city).mkdir(parents=True)
    (folder / city / "results.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    return folder


ROWS = [
    row("mean", "none", -0.01, probe="mean"),
    row("coordinates", "none", 0.3, probe="knn"),
    row("coordinates", "none", 0.5, probe="knn"),
    row("urbanln", "satellite", 0.4),
    row("urbanln", "satellite", 0.6),
    row("urbanln", "satellite", 0.9, probe="mlp"),
]


@pytest.fixture
def folder(tiny_model_dir, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(tiny_model_dir, folder)
    (folder / "training_summary.json").write_text(json.dumps(SUMMARY))
    (folder / "train_arguments.yaml").write_text(yaml.safe_dump({"learning_rate": 5e-4, "seed": 3}))
    recall = {"image_to_text_recall_at_1": 0.25, "chance_recall_at_1": 0.01}
    (folder / "metrics.jsonl").write_text(
        json.dumps({"loss": 1}) + "\n" + json.dumps(recall) + "\n"
    )
    return folder


def card_of(folder, results=None):
    return ModelCard.load(write_model_card(read_run(folder, results), "org/urbanln-tiny"))


def test_the_card_says_what_the_files_say(folder, tmp_path):
    text = card_of(folder, write_results(tmp_path / "results", ROWS)).text
    assert "1,620 to train on, 180 to validate, 3 left out" in text
    assert "18 (1.0%); the longest has 260" in text
    assert "`learning_rate` | 0.0005" in text
    assert "image to text 0.250, chance 0.010" in text
    assert "no picture of a tested region was seen" in text
    assert "230 s in 1 process(es); device: cpu" in text
    # the controls beside the model, mean and sample SD over the splits, of the ridge probe
    assert "| coordinates | 0.40 ± 0.14 |" in text
    assert "| urbanln | 0.50 ± 0.14 |" in text
    assert text.index("| coordinates |") < text.index("| urbanln |")
    assert "ynthetic" not in text


def test_the_head_is_what_the_hub_takes(folder, tmp_path):
    data = card_of(folder, write_results(tmp_path / "results", ROWS)).data
    assert data.library_name == "transformers"
    assert data.pipeline_tag == "image-feature-extraction"
    assert data.license == "apache-2.0"
    assert data.model_name == "urbanln-tiny"
    (result,) = data.eval_results
    assert (result.metric_type, result.metric_value) == ("r2", 0.5)
    assert result.dataset_name == "lyon"


def test_a_model_without_scores_claims_none(folder):
    card = card_of(folder)
    assert card.data.eval_results is None
    assert "## Scores" not in card.text


def test_simulated_scores_say_so(folder, tmp_path):
    rows = [one | {"synthetic": True} for one in ROWS]
    card = card_of(folder, write_results(tmp_path / "results", rows))
    assert "> **Synthetic.**" in card.text
    assert "lyon (synthetic)" in card.text
    assert "synthetic" in card.data.tags
    assert card.data.eval_results[0].dataset_name == "lyon (synthetic)"


@pytest.mark.parametrize("control", ["mean", "coordinates"])
def test_scores_without_their_controls_are_refused(folder, tmp_path, control):
    rows = [one for one in ROWS if one["system"] != control]
    with pytest.raises(ReleaseError, match=f"without the control {control}"):
        read_run(folder, write_results(tmp_path / "results", rows))


def test_pickled_weights_are_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ReleaseError, match="Weights in pickle"):
        read_run(tmp_path)


def test_results_that_are_not_there_are_told(folder, tmp_path):
    with pytest.raises(ReleaseError, match="no results"):
        read_run(folder, tmp_path)


def test_the_examples_of_the_card_run(folder, monkeypatch, tmp_path):
    text = card_of(folder).text
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        found: dict = {}
        exec(block.replace("org/urbanln-tiny", str(folder)), found)
        if "vector" in found:
            assert found["vector"].shape == (16,)
        else:
            torch.testing.assert_close(found["similarity"].sum(), torch.tensor(1.0))


def test_the_command_line_writes_the_card(folder, tmp_path, capsys):
    results = write_results(tmp_path / "results", ROWS)
    main(["card", str(folder), "--results", str(results), "--repo", "org/name"])
    assert capsys.readouterr().out.strip() == str(folder / "README.md")
    with pytest.raises(SystemExit, match="no finished model"):
        main(["card", str(tmp_path), "--repo", "org/name"])
