import itertools

import pytest

from dataset_builders.errors import DatasetError
from dataset_builders.schema import (
    TABLES,
    DatasetMetadata,
    Indicator,
    config_name,
    features,
    parse_config_name,
)


def test_config_names_round_trip():
    for city, table in itertools.product(["new_york", "harborview-7"], TABLES):
        assert parse_config_name(config_name(city, table)) == (city, table)


def test_rejects_invalid_city_and_config_names():
    for city in ("New York", "", "a-b", "-7", "../x"):
        with pytest.raises(DatasetError, match="A city is named with"):
            config_name(city, "regions")
    for name in ("beijing", "beijing-roads", "-regions", "a/b-regions"):
        with pytest.raises(DatasetError, match="<city>-<table>"):
            parse_config_name(name)


def test_rejects_indicators_named_like_a_column():
    with pytest.raises(DatasetError, match=r"duplicate columns: \['area_m2'\]"):
        features("regions", [Indicator("area_m2", "m2", "count", "")])


def test_rejects_invalid_indicators():
    fields = {"name": "x", "unit": "1", "kind": "count", "description": ""}
    for change, message in (
        ({"name": "Night Light"}, "column name"),
        ({"kind": "amount"}, "kind of 'x' must be one of"),
        ({"transform": "log"}, "transform of 'x' must be one of"),
    ):
        with pytest.raises(DatasetError, match=message):
            Indicator(**fields | change)


def test_metadata_round_trips_through_json():
    metadata = DatasetMetadata(
        title="t", description="d", source="s", licence="mit", synthetic=True, notes=("é", "b"),
        extra_columns={"regions": {"split_author": "string"}}, parameters={"seed": 3},
    )  # fmt: skip
    assert DatasetMetadata.from_json(metadata.to_json()) == metadata
