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


@pytest.mark.parametrize("city", ["new_york", "harborview-7"])
def test_config_names_round_trip(city):
    for table in TABLES:
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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "Night Light"}, "column name"),
        ({"kind": "amount"}, "kind of 'x' must be one of"),
        ({"transform": "log"}, "transform of 'x' must be one of"),
    ],
)
def test_rejects_invalid_indicators(change, message):
    fields = {"name": "x", "unit": "1", "kind": "count", "description": ""} | change
    with pytest.raises(DatasetError, match=message):
        Indicator(**fields)


def test_metadata_round_trips_through_json():
    metadata = DatasetMetadata(
        title="t", description="d", source="s", licence="mit", synthetic=True, notes=("é", "b"),
        extra_columns={"regions": {"split_author": "string"}}, parameters={"seed": 3},
    )  # fmt: skip
    assert DatasetMetadata.from_json(metadata.to_json()) == metadata
