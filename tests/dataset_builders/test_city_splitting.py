"""Splits of a city, and shards that are rewritten when their content changes."""

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from dataset_builders.city.recipe import SplitSettings
from dataset_builders.city.splitting import split_regions
from dataset_builders.regions import square_grid
from dataset_builders.schema import INDICATORS, DatasetMetadata
from dataset_builders.splits import local_xy
from dataset_builders.storage import read_table
from dataset_builders.writer import DatasetWriter

POPULATION = INDICATORS["population"]
GRID = square_grid(shapely.box(7.0, 43.0, 7.25, 43.18), 500, plane="epsg32632")


def labels(wave_m):
    """Periodic labels with a wavelength of `wave_m` metres."""
    x, y = local_xy(GRID["lon"].to_numpy(), GRID["lat"].to_numpy())
    values = np.exp(3 + np.sin(2 * np.pi * x / wave_m) + np.sin(2 * np.pi * y / wave_m))
    return pd.DataFrame({"population": values}, index=GRID.index)


def split(targets=None, groups=(), frame=GRID, **fields):
    targets = labels(4000) if targets is None else targets
    return split_regions(frame, targets, [POPULATION], SplitSettings(**fields), groups)


def test_blocks_are_as_wide_as_the_labels_reach():
    short, long = split(labels(3000)), split(labels(12_000))
    for found in (short, long):
        assert found.block_m >= found.ranges_m["population"]
        assert not [note for note in found.notes if "correlation range" in note]
    assert long.ranges_m["population"] > short.ranges_m["population"]


def test_a_label_that_reaches_too_far_is_said():
    x, y = local_xy(GRID["lon"].to_numpy(), GRID["lat"].to_numpy())
    slope = pd.DataFrame({"population": x - x.min() + y - y.min()}, index=GRID.index)
    found = split(slope)
    assert found.ranges_m["population"] > found.block_m
    assert any("`population`" in note and "correlation range" in note for note in found.notes)
    # at least three blocks per row, so all parts exist
    assert len(set(found.columns["split_block"]) - {None}) == 3


def test_a_block_that_is_asked_for_is_taken():
    assert split(block_m=2500.0).block_m == 2500.0


@pytest.mark.parametrize("cells", [0.0, 1.0, 2.0])
def test_the_buffer_is_as_wide_as_asked(cells):
    found = split(block_m=4000.0, buffer_cells=cells)
    x, y = local_xy(GRID["lon"].to_numpy(), GRID["lat"].to_numpy())
    column = found.columns["split_block"]
    train, test = (column == "train"), (column == "test")
    apart = np.hypot(
        x[train][:, None] - x[test][None, :], y[train][:, None] - y[test][None, :]
    ).min()
    # between centres; a buffer of one cell drops the eight neighbours
    assert apart > (cells + 0.5) * 500 * 0.99
    assert apart < (cells + 2) * 500


@settings(max_examples=20)
@given(seed=st.integers(0, 10_000))
def test_no_part_shares_a_picture_with_another(seed):
    rng = np.random.default_rng(seed)
    names = rng.permutation(GRID["region_id"].to_numpy())[:30].tolist()
    groups = [sorted(names[start : start + 3]) for start in range(0, 30, 3)]
    found = split(groups=groups)
    row = {name: index for index, name in enumerate(GRID["region_id"])}
    for group in groups:
        for name in ("split_random", "split_block", "fold_block"):
            parts = {found.columns[name][row[one]] for one in group} - {None}
            assert len(parts) <= 1, (name, parts)


def test_regions_in_another_order_are_split_the_same():
    order = np.random.default_rng(0).permutation(len(GRID))
    shuffled = gpd.GeoDataFrame(GRID.iloc[order].reset_index(drop=True))
    targets = labels(4000)
    one = split(targets)
    other = split(targets.iloc[order].reset_index(drop=True), frame=shuffled)
    for name, values in one.columns.items():
        assert values[order].tolist() == other.columns[name].tolist()
    assert set(one.columns) == {"split_random", "split_block", "fold_block"}


def writer(folder, seed=0):
    return DatasetWriter(
        folder, DatasetMetadata("t", "d", "s", "l", indicators=(), parameters={"seed": seed})
    )


def rows(*names):
    return ({"region_id": name, "city": "a"} for name in names)


def test_a_shard_is_remade_when_what_it_is_made_of_changes(tmp_path):
    made = []

    def write(names, seed=0):
        given = (made.append(names) or row for row in rows(*names))
        writer(tmp_path, seed).write_shard("a", "regions", 0, given, made_of=names)

    write(["x"])
    write(["x"])
    assert made == [["x"]]
    write(["y", "z"])
    assert read_table(tmp_path, "a", "regions")["region_id"].tolist() == ["y", "z"]
    write(["y", "z"], seed=1)
    write(["y", "z"], seed=1)
    assert len(made) == 5


def test_shards_that_are_no_more_are_removed(tmp_path):
    one = writer(tmp_path)
    for index in range(3):
        one.write_shard("a", "regions", index, rows(f"r{index}"), made_of=index)
    one.remove_shards_from("a", "regions", 1)
    assert read_table(tmp_path, "a", "regions")["region_id"].tolist() == ["r0"]
    one.remove_shards_from("a", "regions", 0)
    assert not (tmp_path / "data" / "a-regions").exists()
