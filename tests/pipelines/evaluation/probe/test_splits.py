import numpy as np
import pytest

from dataset_builders.storage import read_regions
from pipelines.evaluation.errors import InputError
from pipelines.evaluation.probe.splits import (
    CityRegions,
    CitySplitter,
    RandomSplitter,
    block_ids,
    geography,
    splitter_within,
    stored_neighbours,
)
from tests.pipelines.evaluation.toy import CITY, build_toy
from tests.wards import make_wards, touching_pairs


def drawn_parts(regions, place, protocol, seed):
    """Part of each region, or None."""
    split = splitter_within(protocol, CityRegions(regions, place)).split(seed)
    return split.parts(len(regions))


@pytest.fixture(scope="module")
def regions(tmp_path_factory):
    return read_regions(build_toy(tmp_path_factory.mktemp("large"), side=20, street_views=0), CITY)


def test_seed_0_is_the_stored_split_and_others_are_drawn(regions):
    stored = ["train", "validation", "test", "test"] * 100
    with_stored = regions.assign(split_random=stored, split_block=None)
    place = geography(with_stored)
    assert drawn_parts(with_stored, place, "random", 0).tolist() == stored
    drawn = [drawn_parts(with_stored, place, "random", seed).tolist() for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert drawn[0] != stored
    # without a stored block split, seed 0 is drawn too
    assert set(drawn_parts(with_stored, place, "block", 0)) == {"train", "validation", "test", None}
    with pytest.raises(InputError, match="Unknown protocol 'fold'"):
        drawn_parts(regions, place, "fold", 0)


@pytest.mark.parametrize("protocol", ["random", "block"])
def test_split_does_not_depend_on_the_order_of_regions(regions, protocol):
    order = np.random.default_rng(0).permutation(len(regions))
    shuffled = regions.iloc[order].reset_index(drop=True)
    split = drawn_parts(regions, geography(regions), protocol, 3)
    other = drawn_parts(shuffled, geography(shuffled), protocol, 3)
    assert other.tolist() == split[order].tolist()


@pytest.mark.parametrize("seed", range(1, 4))
def test_held_out_blocks_are_whole_and_apart_from_training_regions(regions, seed):
    place = geography(regions)
    split = drawn_parts(regions, place, "block", seed)
    # 20 in a row, by region_id
    (row, column), (their_row, their_column) = (
        np.divmod(np.flatnonzero(split == part), 20) for part in ("train", "test")
    )
    apart = np.maximum(
        abs(row[:, None] - their_row[None]), abs(column[:, None] - their_column[None])
    )
    assert apart.min() == 2
    blocks = block_ids(place)
    assert len(set(blocks)) >= 9
    for block in set(blocks):
        assert len(set(split[blocks == block]) - {None}) <= 1
    wards = make_wards(seed)
    split = drawn_parts(wards, geography(wards), "block", seed)
    assert touching_pairs(wards, split, "train", "test") == 0
    assert touching_pairs(wards, split, "validation", "test") == 0


def test_stored_split_excludes_regions_touching_another_part():
    wards = make_wards(0)
    stored = np.where(wards["lon"] < wards["lon"].median(), "train", "test").astype(object)
    stored[::50] = None
    leaky = wards.assign(split_block=stored)
    place = geography(leaky)
    split = drawn_parts(leaky, place, "block", 0)
    assert touching_pairs(leaky, stored, "train", "test") > 0
    assert touching_pairs(leaky, split, "train", "test") == 0
    left_out = (split == None) & (stored != None)  # noqa: E711
    assert set(stored[left_out]) == {"train"}
    assert stored_neighbours(leaky, place) == {"train": left_out.sum()}
    # idempotent, and the random protocol is unchanged
    assert stored_neighbours(wards.assign(split_block=split), place) == {}
    same = wards.assign(split_random=stored)
    assert drawn_parts(same, place, "random", 0).tolist() == stored.tolist()


def test_geography_without_coordinates_or_areas(regions):
    place = geography(regions)
    assert place.cell_m == pytest.approx(np.sqrt(0.8e6))
    # 0.01 degrees of longitude at 50 north
    assert geography(regions.assign(area_m2=np.nan)).cell_m == pytest.approx(717, abs=3)
    # some regions without coordinates are blocks of their own
    blocks = block_ids(geography(regions.assign(lon=regions["lon"].where(regions.index > 2))))
    assert all((blocks == blocks[row]).sum() == 1 for row in range(3))
    nowhere = regions.assign(lon=np.nan, lat=np.nan)
    place = geography(nowhere)
    assert not place.complete(np.arange(3))
    assert np.isnan(place.block_m)
    assert len(drawn_parts(nowhere, place, "random", 1)) == len(regions)


def test_drawn_blocks_have_the_size_of_the_stored_blocks(regions):
    larger = 2 * geography(regions).block_m
    unused = [
        (drawn_parts(regions, geography(regions, block_m), "block", 1) == None).sum()  # noqa: E711
        for block_m in (None, larger)
    ]
    assert unused[1] < unused[0]  # larger blocks have fewer cells in buffers


def test_city_splitter_trains_on_sources_and_tests_on_the_target(regions):
    place = geography(regions)
    kept = np.arange(0, len(regions), 2)
    sources = [RandomSplitter(regions, place), RandomSplitter(regions, place, kept)]
    split = CitySplitter(sources, num_target=5).split(3)
    whole, half = sources[0].split(3), sources[1].split(3)
    n = len(regions)
    assert split.test.tolist() == list(range(n + n // 2, n + n // 2 + 5))
    assert split.validation.tolist() == [*whole.validation, *(n + half.validation)]
    assert sorted([*split.train, *split.validation]) == list(range(n + n // 2))
    # compared regions keep their parts
    assert half.parts(len(kept)).tolist() == whole.parts(n)[kept].tolist()
