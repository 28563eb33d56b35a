"""All stages from a dataset to the report, connected by their files."""

import json

import pandas as pd

from dataset_builders.storage import read_table
from pipelines.evaluation import cli
from pipelines.evaluation.report import figures
from tests.conftest import tiny_config_fields
from train import main as train

CITY = "harborview"
TINY = json.dumps({**tiny_config_fields(), "queue_size": 32})


def test_from_city_to_report(tiny_city, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = ["--dataset_name", str(tiny_city)]
    assert train(
        ["--config_overrides", TINY, *data, "--output_dir", "model", "--max_train_steps", "2",
         "--per_device_train_batch_size", "8", "--split_column", "split_random",
         "--learning_rate", "1e-3", "--use_cpu", "true"]
    ) == 0  # fmt: skip
    for label, more in (("urbanln", []), ("random-init", ["--random_init"])):
        assert cli.main(
            ["embed", "--model_name_or_path", "model", *data, "--city", CITY, "--output_dir",
             "embeddings", "--label", label, *more]
        ) == 0  # fmt: skip
    tables = [f"embeddings/{CITY}/{label}.parquet" for label in ("urbanln", "random-init")]
    assert cli.main(
        ["probe", "--embeddings", *tables, *data, "--city", CITY, "--output_dir", "results",
         "--views", "satellite", "--protocols", "block", "--seeds", "2", "--mlp_max_epochs", "1"]
    ) == 0  # fmt: skip
    # most of the time; the report's own tests draw its figures
    monkeypatch.setattr(figures, "save", lambda figure, path: None)
    assert cli.main(["report", "--output_dir", "results"]) == 0

    pairs = pd.read_parquet("model/pairs.parquet")
    regions = read_table(tiny_city, CITY, "regions").set_index("region_id")
    seen = pairs.loc[pairs["split"] == "train", "region_id"]
    assert set(regions.loc[seen, "split_random"]) == {"train"}  # no test region
    lines = (tmp_path / "results" / CITY / "results.jsonl").read_text().splitlines()
    rows = pd.DataFrame(map(json.loads, lines))
    assert set(rows["protocol"]) == {"block"}
    assert rows["indicator"].nunique() == 7
    assert rows["synthetic"].all()
    report = (tmp_path / "results" / "report.md").read_text()
    for name in ("synthetic", "mean", "coordinates", "urbanln", "random-init"):
        assert name in report
