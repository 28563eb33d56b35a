import matplotlib.image
import numpy as np
import pandas as pd
import pytest

from pipelines.evaluation.report.documents import Picture, tables_of
from pipelines.evaluation.report.transfer import read_transfer, transfer_blocks

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
def results(tmp_path):
    pd.DataFrame(lines()).to_csv(tmp_path / "transfer.csv", index=False)
    return read_transfer(tmp_path)


def test_nothing_is_read_where_nothing_was_carried(tmp_path):
    assert read_transfer(tmp_path) is None


def test_trainings_and_indicators_are_averaged(results):
    assert results.sources == ["north", "south", "north+south"]
    part = results.of("city-encoder", "net", "satellite", "mlp")
    wide = results.matrix(part, "mean")
    # 0.3, 0.1 of the indicators' shifts, 0.05 of the seeds', 0.05 at home
    assert wide.loc["north", "north"] == pytest.approx(0.5)
    assert wide.loc["north", "south"] == pytest.approx(0.45)
    assert results.matrix(part, "gdp").loc["south", "north"] == pytest.approx(0.55)
    assert results.trainings == 2


def test_a_probe_is_not_carried_home(results):
    wide = results.matrix(results.of("city", "net", "satellite", "mlp"), "mean")
    assert np.isnan(wide.loc["north", "north"])
    assert wide.loc["north+south"].isna().all()
    assert np.isfinite(wide.loc["north", "south"])


def test_the_two_questions_are_two_tables_and_two_figures(results, tmp_path):
    (tmp_path / "figures").mkdir()
    blocks = transfer_blocks(results, tmp_path, "figures")
    tables = {table.name: table for table in tables_of(blocks)}
    assert list(tables) == ["transfer-city-encoder", "transfer-city"]
    home = tables["transfer-city-encoder"].rows[0]
    assert [cell.text for cell in home] == [
        "net", "satellite", "MLP", "North", "0.500", "0.450"
    ]  # fmt: skip
    assert [row[3].text for row in tables["transfer-city"].rows] == ["North", "South"]
    shown = [block for block in blocks if isinstance(block, Picture)]
    assert [picture.path for picture in shown] == [
        "figures/transfer-city-encoder-net.png", "figures/transfer-city-net.png"
    ]  # fmt: skip
    assert all("synthetic" in picture.title for picture in shown)
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {
        f"transfer-{protocol}-net{view}.png"
        for protocol in ("city", "city-encoder")
        for view in ("", "-satellite")
    }
    pixels = matplotlib.image.imread(tmp_path / shown[0].path)
    assert len(np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0)) > 50
