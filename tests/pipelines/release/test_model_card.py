import json
import shutil

import pytest
import yaml
from huggingface_hub import ModelCard

import modeling_urbanln  # noqa: F401 - registers the task
from pipelines.common.errors import InputError
from pipelines.release.__main__ import main
from pipelines.release.model_card import write_model_card
from pipelines.release.runs import read_run

SUMMARY = {
    "steps": 250, "seconds": 229.7, "num_processes": 1, "device": "cpu",
    "num_parameters": 5_846_145, "num_trained_parameters": 5_846_145, "num_train": 1620,
    "num_validation": 180, "num_rejected": 3, "num_truncated_captions": 18,
    "truncation_rate": 0.01, "longest_caption_tokens": 260, "max_length": 248,
    "dataset_name": "", "split_column": "split_block",
}  # fmt: skip


def row(system, view, r2, protocol="block", probe="ridge", indicator="gdp", split_seed=0, **more):
    return {
        "system": system, "view": view, "indicator": indicator, "protocol": protocol,
        "probe": probe, "r2": r2, "n_test": 100, "split_seed": split_seed,
        "table_hash": "t", "embedding_hash": f"e-{system}", **more,
    }  # fmt: skip


ROWS = [
    row("mean", "none", -0.01, probe="mean"),
    row("coordinates", "none", 0.3, probe="knn"),
    row("coordinates", "none", 0.5, probe="knn", split_seed=1),
    row("random-init", "satellite", 0.35),
    row("random-init", "satellite", 0.35, split_seed=1),
    row("urbanln", "satellite", 0.4),
    row("urbanln", "satellite", 0.6, split_seed=1),
    # rows that the card must ignore
    row("coordinates", "none", 0.9, probe="gbm"),
    row("urbanln", "satellite", 0.9, probe="mlp"),
    row("coordinates+urbanln", "satellite", 0.9, beside="coordinates"),
    row("urbanln", "satellite", 0.9, table_hash="of other regions"),
    row("urbanln", "satellite", 0.9, embedding_hash="of earlier weights"),
]


def system(random_init=False, **more):
    return {"random_init": random_init, "encoder": "run (UrbanLNModel)", **more}


SYSTEMS = {"random-init": system(True), "urbanln": system()}
GAIN = {"system": "urbanln", "view": "satellite", "probe": "ridge", "reference": "coordinates",
        "reference_view": "none", "reference_probe": "knn", "protocol": "block", "indicator": "gdp",
        "blocks": 12, "intervals": {"r2": {"estimate": 0.1, "low": -0.04, "high": 0.25}},
        }  # fmt: skip


def write_results(folder, rows=ROWS, city="lyon", systems=SYSTEMS, gains=(GAIN,), synthetic=False):
    """Write files as `evaluate.py probe` and `report` do."""
    (folder / city).mkdir(parents=True)
    (folder / city / "results.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    known = {name: {**own, "embedding_hash": f"e-{name}"} for name, own in systems.items()}
    summary = {"synthetic": synthetic, "table_hash": "t", "indicators": {"gdp": {}, "carbon": {}}}
    (folder / city / "probe.json").write_text(json.dumps({**summary, "systems": known}))
    (folder / city / "differences.json").write_text(json.dumps(list(gains)))
    (folder / "figures").mkdir()
    (folder / "figures" / f"{city}-block-map.png").write_bytes(b"a picture")
    return folder


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


def test_card_reports_training_scores_controls_and_intervals(folder, tmp_path):
    card = card_of(folder, write_results(tmp_path / "results"))
    text, data = card.text, card.data
    for said in (
        "1,620 training, 180 validation, 3 rejected",
        "18 (1.0%); the longest has 260",
        "`learning_rate` | 0.0005",
        "image to text 0.250, chance 0.010",
        "without the test regions",
        "230 s in 1 process(es); device: cpu",
        "![lyon-block-map](figures/lyon-block-map.png)",
    ):
        assert said in text
    table = text[text.index("| system |") : text.index("## Figures")].splitlines()
    assert table[2:] == [
        "| mean (control) | -0.01 ± 0.00 |",
        "| coordinates (control) | 0.40 ± 0.14 |",
        "| random-init (control) | 0.35 ± 0.00 |",
        "| **urbanln** (this model) | 0.50 ± 0.14 |",
        "| *minus coordinates* | +0.10 [-0.04, +0.25] |",
        "| *test regions* | 100 |",
        "",
    ]
    assert (folder / "figures" / "lyon-block-map.png").read_bytes() == b"a picture"
    assert "ynthetic" not in text
    assert (data.library_name, data.license) == ("transformers", "apache-2.0")
    assert (data.pipeline_tag, data.model_name) == ("image-feature-extraction", "urbanln-tiny")
    (result,) = data.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_name) == ("r2", 0.5, "lyon")
    assert result.metric_args["r2_of_coordinates_only"] == 0.4
    assert result.metric_args["difference_ci95"] == [-0.04, 0.25]


def test_card_without_results_has_exports_but_no_scores(folder):
    check = {"file": "onnx/vision_model.onnx", "max_difference": 3e-7, "min_cosine": 0.9999999,
             "vectors": 7, "on": "noise and images"}  # fmt: skip
    (folder / "export.json").write_text(json.dumps([check]))
    card = card_of(folder)
    assert card.data.eval_results is None
    assert "## Scores" not in card.text
    row = "| `onnx/vision_model.onnx` | 1.000000 | 3.0e-07 | 7 | noise and images |"
    assert row in card.text


def test_card_marks_simulated_scores_and_names_each_indicator(folder, tmp_path):
    rows = ROWS + [{**one, "indicator": "carbon"} for one in ROWS]
    gains = [GAIN, {**GAIN, "indicator": "carbon"}]
    card = card_of(folder, write_results(tmp_path / "results", rows, gains=gains, synthetic=True))
    assert "> **Synthetic.**" in card.text
    assert "synthetic" in card.data.tags
    found = [(one.dataset_name, one.metric_name.split(",")[0]) for one in card.data.eval_results]
    assert found == [("lyon (synthetic)", f"R2 of {name}") for name in ("gdp", "carbon")]


NOT_CURRENT = {**GAIN, "intervals": {"r2": {"estimate": 0.2, "low": 0.1, "high": 0.3}}}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"gains": []}, "no interval.*evaluate.py report"),
        ({"gains": [NOT_CURRENT]}, "outdated interval"),
        ({"rows": ROWS[1:]}, "without the control mean"),
        ({"systems": {**SYSTEMS, "urbanln-b": system()}}, "2 trained UrbanLN systems .*--system"),
    ],
)
def test_rejects_scores_without_controls_or_current_intervals(folder, tmp_path, changed, said):
    with pytest.raises(InputError, match=said):
        read_run(folder, write_results(tmp_path / "results", **changed))


def test_card_averages_trainings_and_omits_variants(folder, tmp_path):
    systems = {
        "u-s0": system(training={"group": "u"}),
        "u-s1": system(training={"group": "u"}),
        "u-plain-s0": system(training={"group": "u-plain", "variant_of": "u"}),
    }
    rows = [
        *ROWS[:3],
        *(row("u-s0", "satellite", r2, split_seed=k) for k, r2 in enumerate([0.4, 0.6])),
        *(row("u-s1", "satellite", r2, split_seed=k) for k, r2 in enumerate([0.6, 0.8])),
        row("u-plain-s0", "satellite", 0.2),
    ]
    gain = {"r2": {"estimate": 0.2, "low": 0.1, "high": 0.3}}
    gains = [{**GAIN, "system": "u", "intervals": gain}]
    results = write_results(tmp_path / "results", rows, systems=systems, gains=gains)
    text = card_of(folder, results).text
    assert "| **u** (this model, 2 training runs) | 0.60 ± 0.14 |" in text
    assert "u-plain" not in text


def test_command_writes_the_card_and_keeps_an_edited_one(folder, tmp_path, capsys):
    command = ["card", str(folder), "--repo", "org/name"]
    results = write_results(tmp_path / "results")
    for _ in range(2):
        assert main([*command, "--results", str(results)]) == 0
    assert capsys.readouterr().out.split() == [str(folder / "README.md")] * 2
    (folder / "README.md").write_text("mine")
    assert main(command) == 2
    assert "README.md" in capsys.readouterr().err
    assert (folder / "README.md").read_text() == "mine"


def test_rejects_unknown_labels_missing_results_and_pickled_weights(folder, tmp_path):
    results = write_results(tmp_path / "results")
    assert read_run(folder, results, "urbanln").cities[0].model == "urbanln"
    with pytest.raises(InputError, match="no system 'urbanlm'; it has random-init, urbanln"):
        read_run(folder, results, "urbanlm")
    with pytest.raises(InputError, match="no results"):
        read_run(folder, tmp_path)
    for content in ("[1]", "{"):
        (folder / "config.json").write_text(content)
        with pytest.raises(InputError, match=r"config\.json is damaged"):
            read_run(folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"not a finished model.*pytorch_model\.bin"):
        read_run(folder)
