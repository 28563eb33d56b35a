"""All stages from a synthetic city to the report, connected by their files."""

import json

import pytest

from dataset_builders.synthetic.__main__ import main as build_synthetic
from pipelines.evaluation import cli
from train import main as train

CITY = "harborview"
TINY = json.dumps(
    {
        "projection_dim": 16,
        "vision_config": {
            "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
            "num_attention_heads": 2, "image_size": 32, "patch_size": 8,
        },
        "text_config": {
            "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
            "num_attention_heads": 2,
        },
        "queue_size": 32,
    }
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    city = ["--dataset_name", str(out / "dataset"), "--city", CITY]
    build_synthetic(
        ["--output_dir", str(out / "dataset"), "--grid_size", "9", "--street_views", "1",
         "--num_workers", "1"]
    )  # fmt: skip
    assert train(
        ["--config_overrides", TINY, "--dataset_name", str(out / "dataset"), "--output_dir",
         str(out / "model"), "--per_device_train_batch_size", "16", "--max_train_steps", "4",
         "--split_column", "split_random", "--learning_rate", "1e-3", "--use_cpu", "true"]
    ) == 0  # fmt: skip
    for label, more in (("urbanln", []), ("random-init", ["--random_init"])):
        assert cli.main(
            ["embed", "--model_name_or_path", str(out / "model"), *city, "--output_dir",
             str(out / "embeddings"), "--label", label, *more]
        ) == 0  # fmt: skip
    tables = sorted(str(path) for path in (out / "embeddings" / CITY).glob("*.parquet"))
    assert cli.main(
        ["probe", "--embeddings", *tables, *city, "--output_dir", str(out / "results"),
         "--seeds", "2", "--mlp_max_epochs", "2", "--mlp_weight_decays", "0.01"]
    ) == 0  # fmt: skip
    assert cli.main(["report", "--output_dir", str(out / "results")]) == 0
    return out


def test_every_stage_leaves_what_the_next_one_reads(run):
    assert (run / "dataset" / "README.md").exists()
    assert (run / "model" / "model.safetensors").exists()
    assert (run / "model" / "training_summary.json").exists()
    report = (run / "results" / "report.md").read_text()
    assert "synthetic" in report
    for system in ("mean", "coordinates", "urbanln", "random-init"):
        assert system in report


def test_rows_hold_both_protocols_and_all_indicators(run):
    lines = (run / "results" / CITY / "results.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert {row["protocol"] for row in rows} == {"random", "block"}
    assert len({row["indicator"] for row in rows}) == 7
    assert all(row["synthetic"] for row in rows)


def test_pretraining_saw_no_region_that_is_tested(run):
    import pandas as pd

    from dataset_builders.storage import read_table

    pairs = pd.read_parquet(run / "model" / "pairs.parquet")
    regions = read_table(run / "dataset", CITY, "regions").set_index("region_id")
    seen = pairs.loc[pairs["split"] == "train", "region_id"]
    assert set(regions.loc[seen, "split_random"]) == {"train"}
