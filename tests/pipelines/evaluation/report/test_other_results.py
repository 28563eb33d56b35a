import json

import matplotlib.image
import numpy as np
import pandas as pd
import pytest

from pipelines.evaluation.report.frame import CityResults
from pipelines.evaluation.report.other_results import (
    efficiency_section,
    matrix,
    read_transfer,
    retrieval_table,
    transfer_section,
    zero_shot_table,
)

CITIES = ("north", "south")
SHIFT = {"population": 0.0, "gdp": 0.2}


def lines():
    for seed in (0, 1):
        for source in (*CITIES, "north+south"):
            for target in CITIES:
                for protocol in ("city", "city-encoder"):
                    if protocol == "city" and target in source.split("+"):
                        continue
                    for indicator, shift in SHIFT.items():
                        value = 0.3 + shift + 0.1 * seed + 0.05 * (source == target)
                        yield {
                            "protocol": protocol, "within": "", "source": source,
                            "target": target, "group": "net", "system": f"net-s{seed}",
                            "view": "satellite", "probe": "mlp", "indicator": indicator,
                            "synthetic": True, "r2": value, "r2_sd": 0.01,
                        }  # fmt: skip


@pytest.fixture
def transfer(tmp_path):
    pd.DataFrame(lines()).to_csv(tmp_path / "transfer.csv", index=False)
    return read_transfer(tmp_path)


def colours(path):
    pixels = matplotlib.image.imread(path)
    return len(np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0))


def test_trainings_and_indicators_are_averaged(transfer):
    wide = matrix(transfer[transfer["protocol"] == "city-encoder"])
    assert wide.index.tolist() == ["north", "south", "north+south"]
    # 0.3 + 0.1 (indicators) + 0.05 (seeds) + 0.05 (source is target)
    assert wide.loc["north", "north"] == pytest.approx(0.5)
    assert wide.loc["north", "south"] == pytest.approx(0.45)
    assert matrix(transfer[transfer["protocol"] == "city-encoder"], "gdp").loc[
        "south", "north"
    ] == pytest.approx(0.55)
    assert np.isnan(matrix(transfer[transfer["protocol"] == "city"]).loc["north", "north"])
    assert transfer["trainings"].unique() == [2]


def test_each_transfer_protocol_has_a_table_and_figures(transfer, tmp_path):
    section = transfer_section(transfer, tmp_path, "figures")
    tables = {table.name: table.frame() for table in section.tables()}
    assert list(tables) == ["transfer-city-encoder", "transfer-city"]
    home = tables["transfer-city-encoder"].iloc[0].tolist()
    assert home == ["net", "satellite", "MLP", "North", pytest.approx(0.5), pytest.approx(0.45)]
    assert tables["transfer-city"]["trained in"].tolist() == ["North", "South"]
    figures = {figure.path: figure.title for figure in section.figures()}
    assert set(figures) == {
        f"figures/transfer-{protocol}-net{view}.png"
        for protocol in ("city", "city-encoder")
        for view in ("", "-satellite")
    }
    assert all("synthetic" in title for title in figures.values())
    assert all(colours(tmp_path / path) > 50 for path in figures)


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
    assert retrieval_table(tmp_path / "results", town) is None
    path.write_text(json.dumps(found))
    table = retrieval_table(tmp_path / "results", town)
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
    shown = zero_shot_table(tmp_path / "results", town).markdown().splitlines()
    assert "**+0.300 \\[+0.100, +0.500\\]**" in shown[2]
    assert "-0.20 to +0.20" in shown[2]
    assert "| +0.300 " in shown[3], "one block gives no interval"


def test_efficiency_table_shows_measurements(tmp_path):
    speeds = [{"regions": n, "images": 3 * n, "seconds": 0.5 * n, "repeats": 3} for n in (1, 128)]
    one = {"system": "net", "size": "cpu", "image_size": 64, "total": 1000, "trainable": 0,
           "inference": 900, "speeds": speeds}  # fmt: skip
    where = {"device": "A", "cores": 2, "threads": 1, "clock": "processor time", "load": 0.1,
             "torch": "2", "precision": "float32"}  # fmt: skip
    assert efficiency_section(tmp_path, tmp_path, "figures") is None
    measured = {"systems": [one, {**one, "system": "other"}], "machine": where}
    (tmp_path / "efficiency.json").write_text(json.dumps(measured))
    section = efficiency_section(tmp_path, tmp_path, "figures")
    (table,) = section.tables()
    first = table.frame().iloc[0]
    assert first["parameters total"] == 1000
    assert first["batch of 1 region images/s"] == pytest.approx(6)
    assert first["batch of 128 regions regions/s"] == pytest.approx(2)
    assert colours(tmp_path / "figures" / "efficiency.png") > 50
