"""Schema of the dataset tables: names, columns, keys, indicators and metadata."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

import datasets
import pyarrow as pa

from .errors import DatasetError

TABLES = ("regions", "street_view", "satellite", "captions")
VIEWS = ("street_view", "satellite")
CITY_PATTERN = re.compile(r"[a-z0-9_]+(-[0-9]+)?")

Kind = Literal["count", "density", "intensity", "share", "rate"]
Transform = Literal["ln1p", "identity"]


@dataclass(frozen=True)
class Indicator:
    """Prediction target: a quantity per region.

    Attributes:
        name: Name of its column in the table of regions.
        unit: Unit of the stored value.
        kind: "count" is additive over regions; "density" is per area; "intensity" is a mean over
            the region; "share" lies in [0, 1]; "rate" is any other ratio.
        description: What is measured, and the source.
        transform: Scale of the prediction: "ln1p" is ln(y + 1), "identity" the stored value.

    Raises:
        DatasetError: Invalid name, kind or transform.
    """

    name: str
    unit: str
    kind: Kind
    description: str
    transform: Transform = "ln1p"

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.name):
            raise DatasetError(
                f"An indicator's name is a column name of a-z, 0-9 and _, got {self.name!r}."
            )
        for field_name, known in (("kind", get_args(Kind)), ("transform", get_args(Transform))):
            if (value := getattr(self, field_name)) not in known:
                raise DatasetError(
                    f"The {field_name} of {self.name!r} must be one of {known}, got {value!r}."
                )


INDICATORS: dict[str, Indicator] = {
    indicator.name: indicator
    for indicator in (
        Indicator("population", "people", "count", "Residents of the region."),
        Indicator("gdp", "million CNY", "count", "Gross domestic product of the region."),
        Indicator("night_light", "nW/cm2/sr", "intensity", "Mean night-time radiance."),
        Indicator("comments", "comments", "count", "Reviews of the places in the region."),
        Indicator("carbon", "tonnes CO2 a year", "count", "Carbon dioxide emitted in a year."),
        Indicator("crime", "incidents", "count", "Reported crimes."),
        Indicator("poi", "points of interest", "count", "Points of interest on the map."),
    )
}


@dataclass(frozen=True)
class DatasetMetadata:
    """Metadata of a dataset; stored in every shard and shown on its card."""

    title: str
    description: str  # a paragraph on the contents and limits of the dataset
    source: str  # authors of the data and where to find them
    licence: str  # SPDX or Hugging Face licence id, or free text
    synthetic: bool = False
    indicators: tuple[Indicator, ...] = tuple(INDICATORS.values())
    extra_columns: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # dtypes by table
    # a build can be resumed with equal parameters only
    parameters: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()  # caveats, one sentence each
    citation: str = ""  # BibTeX or a line of text

    def to_json(self) -> str:
        """Value of the `urbanln` key of a Parquet schema."""
        fields = asdict(self)
        fields["indicators"] = {
            one.name: {key: value for key, value in asdict(one).items() if key != "name"}
            for one in self.indicators
        }
        return json.dumps(fields, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> "DatasetMetadata":
        """Parse the output of [`to_json`]; unknown keys are ignored.

        Raises:
            DatasetError: The text cannot be parsed.
        """
        try:
            fields = json.loads(text)
            known = {key: fields[key] for key in cls.__dataclass_fields__ if key in fields}
            known["indicators"] = tuple(
                Indicator(name=name, **values) for name, values in fields["indicators"].items()
            )
            known["notes"] = tuple(known.get("notes", ()))
            return cls(**known)
        except DatasetError:
            raise
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise DatasetError(f"The metadata of the dataset cannot be read: {error!r}.") from error


def config_name(city: str, table: str) -> str:
    """`"<city>-<table>"`, the configuration name for `load_dataset`.

    Raises:
        DatasetError: Unknown table, or a city name other than a-z, 0-9 and _, optionally followed
            by a hyphen and a number.
    """
    if table not in TABLES:
        raise DatasetError(f"A table is one of {TABLES}, got {table!r}.")
    if not CITY_PATTERN.fullmatch(city):
        raise DatasetError(
            f"A city is named with a-z, 0-9 and _, and at most -<number> at the end, got {city!r}."
        )
    return f"{city}-{table}"


def parse_config_name(name: str) -> tuple[str, str]:
    """City and table of a configuration name.

    Raises:
        DatasetError: The name is not `<city>-<table>`.
    """
    city, _, table = name.rpartition("-")
    if table not in TABLES or not CITY_PATTERN.fullmatch(city):
        raise DatasetError(f"A config is named <city>-<table>, table in {TABLES}; got {name!r}.")
    return city, table


def features(
    table: str,
    indicators: Iterable[Indicator] = tuple(INDICATORS.values()),
    extra_columns: Mapping[str, str] | None = None,
) -> datasets.Features:
    """Columns of a table; all except the required ones may be null.

    Args:
        table: One of [`TABLES`].
        indicators: Prediction targets; columns of "regions" only.
        extra_columns: Additional columns by name and dtype, placed last.

    Raises:
        DatasetError: Unknown table, or duplicate column names.
    """
    if table not in TABLES:
        raise DatasetError(f"A table is one of {TABLES}, got {table!r}.")
    columns = list(_COLUMNS[table])
    if table == "regions":
        columns += [(one.name, "float64") for one in indicators]
        columns += [(f"{one.name}_source", "string") for one in indicators]
        columns += [("split_random", "string"), ("split_block", "string"), ("fold_block", "int32")]
    columns += list((extra_columns or {}).items())
    names = [name for name, _ in columns]
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise DatasetError(f"The table {table!r} would have duplicate columns: {twice}.")
    return datasets.Features(
        {
            name: datasets.Image() if dtype == "image" else datasets.Value(dtype)
            for name, dtype in columns
        }
    )


def check_types(table: str, columns: pa.Schema, where: str) -> None:
    """Check that the standard columns of a table have the expected types.

    Args:
        table: One of [`TABLES`].
        columns: Schema of a Parquet file; additional columns may have any type.
        where: Name of the table, for messages.

    Raises:
        DatasetError: A column has another type; the message names both.
    """
    expected = features(table, ()).arrow_schema
    for name in [one for one in expected.names if one in columns.names]:
        found, wanted = columns.field(name).type, _kind(expected.field(name).type)
        allowed = {wanted} if wanted == "images" else {wanted, "nothing"}
        if name.endswith("_id"):  # of an imported table
            allowed.add("numbers")
        if _kind(found) not in allowed:
            raise DatasetError(f"{where}: the column {name!r} must hold {wanted}, not {found}.")


def _kind(dtype: pa.DataType) -> str:
    if pa.types.is_dictionary(dtype):
        return _kind(dtype.value_type)
    if pa.types.is_struct(dtype):
        names = [child.name for child in dtype.fields]
        is_image = "bytes" in names and _kind(dtype.field("bytes").type) == "bytes"
        return "images" if is_image else str(dtype)
    for kind, checks in _KINDS.items():
        if any(check(dtype) for check in checks):
            return kind
    return str(dtype)


_KINDS = {
    "text": (pa.types.is_string, pa.types.is_large_string),
    "numbers": (pa.types.is_integer, pa.types.is_floating),
    "bytes": (pa.types.is_binary, pa.types.is_large_binary),
    "nothing": (pa.types.is_null,),
}
_TILE = [("tile_z", "int32"), ("tile_x", "int32"), ("tile_y", "int32")]
_IMAGE_ORIGIN = [("captured_at", "string"), ("source", "string"), ("licence", "string")]
_CAPTION = [("caption", "string"), ("caption_model", "string"), ("caption_score", "float64")]
_COLUMNS: dict[str, list[tuple[str, str]]] = {
    "regions": [
        ("region_id", "string"),
        ("city", "string"),
        ("geometry", "binary"),
        ("lon", "float64"),
        ("lat", "float64"),
        ("area_m2", "float64"),
        *_TILE,
    ],
    "street_view": [
        ("image", "image"),
        ("image_id", "string"),
        ("region_id", "string"),
        ("lon", "float64"),
        ("lat", "float64"),
        ("heading", "float64"),
        *_IMAGE_ORIGIN,
        *_CAPTION,
    ],
    "satellite": [
        ("image", "image"),
        ("image_id", "string"),
        ("region_id", "string"),
        *_TILE,
        ("ground_resolution_m", "float64"),
        *_IMAGE_ORIGIN,
        *_CAPTION,
    ],
    "captions": [
        ("image_id", "string"),
        ("model", "string"),
        ("prompt_version", "string"),
        ("stage", "string"),
        ("text", "string"),
        ("score", "float64"),
        ("kept", "bool"),
        ("drop_reason", "string"),
    ],
}

REQUIRED = {
    "regions": ("region_id", "city"),
    "street_view": ("image", "image_id", "region_id"),
    "satellite": ("image", "image_id", "region_id"),
    "captions": ("image_id", "text"),
}

_KEYS = {
    "regions": ("region_id",),
    "street_view": ("image_id",),
    "satellite": ("image_id",),
    "captions": ("view", "image_id", "model", "prompt_version", "stage", "candidate"),
}


def key_columns(table: str, columns: Iterable[str]) -> list[str]:
    """Columns whose values together identify a row over all files of a table.

    An image belongs to one region, so its id is the key of an image table. Multiple captions of an
    image by one model differ in `candidate`, or in their text if the table has no such column.

    Args:
        table: One of [`TABLES`].
        columns: Columns of the table.

    Returns:
        Names of the key columns; empty if the table lacks its id.
    """
    present = set(columns)
    if ("region_id" if table == "regions" else "image_id") not in present:
        return []
    key = [name for name in _KEYS[table] if name in present]
    is_numbered = table != "captions" or "candidate" in present
    return key if is_numbered or "text" not in present else [*key, "text"]


__all__ = [
    "INDICATORS",
    "REQUIRED",
    "TABLES",
    "VIEWS",
    "DatasetMetadata",
    "Indicator",
    "check_types",
    "config_name",
    "features",
    "key_columns",
    "parse_config_name",
]
