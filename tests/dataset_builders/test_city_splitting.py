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


def test_blocks_are_as_wide_as_the_correlation_range():
    short, long = split(labels(3000)), split(labels(12_000))
    for found in (short, long):
        assert found.block_m >= found.ranges_m["population"]
        assert not [note for note in found.notes if "correlation range" in note]
    assert long.ranges_m["population"] > short.ranges_m["population"]
    x, y = local_xy(GRID["lon"].to_numpy(), GRID["lat"].to_numpy())
    slope = pd.DataFrame({"population": x - x.min() + y - y.min()}, index=GRID.index)
    found = split(slope)
    assert found.ranges_m["population"] > found.block_m
    assert any("`population`" in note and "correlation range" in note for note in found.notes)
    # at least three blocks per row, so all parts exist
    assert len(set(found.columns["split_block"]) - {None}) == 3


@pytest.mark.parametrize("cells", [0.0, 1.0, 2.0])
def test_buffer_has_the_requested_width(cells):
    found = split(block_m=4000.0, buffer_cells=cells)
    assert found.block_m == 4000.0
    x, y = local_xy(GRID["lon"].to_numpy(), GRID["lat"].to_numpy())
    column = found.columns["split_block"]
    train, test = (column == "train"), (column == "test")
    apart = np.hypot(
        x[train][:, None] - x[test][None, :], y[train][:, None] - y[test][None, :]
    ).min()
    # between centres; a buffer of one cell drops the eight neighbours
    assert apart > (cells + 0.5) * 500 * 0.99
    assert apart < (cells + 2) * 500


@settings(max_examples=8)
@given(seed=st.integers(0, 10_000))
def test_parts_share_no_image(seed):
    rng = np.random.default_rng(seed)
    names = rng.permutation(GRID["region_id"].to_numpy())[:30].tolist()
    groups = [sorted(names[start : start + 3]) for start in range(0, 30, 3)]
    found = split(groups=groups)
    row = {name: index for index, name in enumerate(GRID["region_id"])}
    for group in groups:
        for name in ("split_random", "split_block", "fold_block"):
            parts = {found.columns[name][row[one]] for one in group} - {None}
            assert len(parts) <= 1, (name, parts)


def test_splits_do_not_depend_on_the_order_of_regions():
    order = np.random.default_rng(0).permutation(len(GRID))
    shuffled = gpd.GeoDataFrame(GRID.iloc[order].reset_index(drop=True))
    targets = labels(4000)
    one = split(targets)
    other = split(targets.iloc[order].reset_index(drop=True), frame=shuffled)
    for name, values in one.columns.items():
        assert values[order].tolist() == other.columns[name].tolist()
    assert set(one.columns) == {"split_random", "split_block", "fold_block"}


def test_shards_are_rewritten_or_removed_when_their_content_changes(tmp_path):
    made = []

    def writer(seed=0):
        parameters = {"seed": seed}
        metadata = DatasetMetadata("t", "d", "s", "l", indicators=(), parameters=parameters)
        return DatasetWriter(tmp_path, metadata)

    def write(name, seed=0, index=0):
        rows = (made.append(name) or {"region_id": one, "city": "a"} for one in [name])
        writer(seed).write_shard("a", "regions", index, rows, made_of=name)

    def read():
        return read_table(tmp_path, "a", "regions")["region_id"].tolist()

    for name in ("x", "x", "y"):
        write(name)
    assert (made, read()) == (["x", "y"], ["y"])
    for _ in range(2):
        write("y", seed=1)
    assert made == ["x", "y", "y"]
    write("z", seed=1, index=1)
    assert read() == ["y", "z"]
    writer(1).remove_shards_from("a", "regions", 1)
    assert read() == ["y"]
    writer(1).remove_shards_from("a", "regions", 0)
    assert not (tmp_path / "data" / "a-regions").exists()
