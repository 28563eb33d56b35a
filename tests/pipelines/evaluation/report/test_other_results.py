import itertools
import json

import matplotlib.image
import numpy as np
import pandas as pd
import pytest

from pipelines.evaluation.report.frame import CityResults
from pipelines.evaluation.report.other_results import (
    efficiency_section,
    retrieval_table,
    transfer_section,
    zero_shot_table,
)
from pipelines.evaluation.report.rendering import Figure, Table


def transfer_rows():
    for seed, source, target, protocol, indicator in itertools.product(
        (0, 1), ("north", "south", "north+south"), ("north", "south"), ("city", "city-encoder"),
        ("population", "gdp"),
    ):  # fmt: skip
        if protocol == "city-encoder" or target not in source.split("+"):
            row = {"protocol": protocol, "source": source, "target": target, "group": "net"}
            row |= {"system": f"net-s{seed}", "view": "satellite", "probe": "mlp"}
            row |= {"indicator": indicator, "synthetic": True}
            value = 0.3 + 0.2 * (indicator == "gdp") + 0.1 * seed + 0.05 * (source == target)
            yield {**row, "r2": value}


@pytest.mark.parametrize("folder", ["transfer/results", "transfer"])
def test_transfer_is_averaged_over_trainings_and_indicators(tmp_path, folder):
    output = tmp_path / "results"
    assert transfer_section(output) is None
    (tmp_path / folder).mkdir(parents=True)
    pd.DataFrame(transfer_rows()).to_csv(tmp_path / folder / "transfer.csv", index=False)
    section = transfer_section(output)
    assert "Mean over 2 training seeds" in section.blocks[0]
    tables = {table.name: table.frame() for table in section.all(Table)}
    assert list(tables) == ["transfer-city-encoder", "transfer-city"]
    # 0.3 + 0.1 (indicators) + 0.05 (seeds) + 0.05 (source is target)
    home = tables["transfer-city-encoder"]
    expected = ["net", "satellite", "MLP", "North", pytest.approx(0.5), pytest.approx(0.45)]
    assert home.iloc[0].tolist() == expected
    assert home["trained in"].tolist() == ["North", "South", "North + South"]
    assert tables["transfer-city"]["trained in"].tolist() == ["North", "South"]
    assert tables["transfer-city"].loc[0, "North"] is None
    figures = {figure.path: figure.title for figure in section.all(Figure)}
    assert set(figures) == {f"figures/transfer-{one}-net.png" for one in ("city", "city-encoder")}
    assert all("synthetic" in title for title in figures.values())
    for path in figures:
        pixels = matplotlib.image.imread(output / path)
        assert len(np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0)) > 50


@pytest.fixture
def town(tmp_path):
    (tmp_path / "results" / "town").mkdir(parents=True)
    (tmp_path / "retrieval" / "town").mkdir(parents=True)
    summary = {"city": "town", "synthetic": True, "systems": {}, "indicators": {}}
    return CityResults(tmp_path / "results" / "town", summary, pd.DataFrame())


def test_retrieval_table_shows_chance(town, tmp_path):
    own = {
        "recall_at_1": 0.25, "recall_at_10": 0.5, "chance_recall_at_1": 0.01,
        "chance_recall_at_10": 0.1, "median_rank": 7.5, "queries": 72, "candidates": 36,
    }  # fmt: skip
    names = ("image_to_text", "text_to_image", "text_to_region")
    found = {"name": "net", "view": "satellite", "directions": dict.fromkeys(names, own)}
    path = tmp_path / "retrieval" / "town" / "retrieval-satellite-net.json"
    assert retrieval_table(town) is None
    path.write_text(json.dumps(found))
    table = retrieval_table(town)
    assert "synthetic" in table.title
    first = table.frame().iloc[0]
    assert first.iloc[:3].tolist() == ["net", "satellite", "image → text"]
    assert first[["recall at 1 model", "recall at 1 chance"]].tolist() == [0.25, 0.01]
    assert first[["recall at 10 model", "median rank", "candidates"]].tolist() == [0.5, 7.5, 36]


def test_zero_shot_table_shows_shuffled_labels(town, tmp_path):
    one = {
        "view": "satellite", "score": "wealth.rich", "indicator": "gdp", "n": 64, "spearman": 0.3,
        "null_low": -0.2, "null_high": 0.2, "p_value": 0.004, "low": 0.1, "high": 0.5, "blocks": 4,
    }  # fmt: skip
    lone = {**one, "low": None, "high": None, "blocks": 1}
    path = tmp_path / "results" / "town" / "zero-shot-net.json"
    path.write_text(json.dumps({"model": "net", "agreement": [one, lone]}))
    shown = zero_shot_table(town).markdown().splitlines()
    assert "**+0.300 \\[+0.100, +0.500\\]**" in shown[2]
    assert "-0.20 to +0.20" in shown[2]
    assert "| +0.300 " in shown[3], "one block gives no interval"


def test_efficiency_table_shows_measurements(tmp_path):
    speeds = [{"regions": n, "images": 3 * n, "seconds": 0.5 * n, "repeats": 3} for n in (1, 128)]
    one = {"system": "net", "size": "cpu", "image_size": 64, "total": 1000, "trainable": 0,
           "inference": 900, "speeds": speeds}  # fmt: skip
    where = {"device": "A", "cores": 2, "threads": 1, "clock": "processor time", "load": 0.1,
             "torch": "2", "precision": "float32"}  # fmt: skip
    assert efficiency_section(tmp_path / "r") is None
    measured = {"systems": [one, {**one, "system": "other"}], "machine": where}
    (tmp_path / "efficiency.json").write_text(json.dumps(measured))
    (table,) = efficiency_section(tmp_path / "r").all(Table)
    first = table.frame().iloc[0]
    assert first["parameters total"] == 1000
    assert first["batch of 1 region images/s"] == pytest.approx(6)
    assert first["batch of 128 regions regions/s"] == pytest.approx(2)
