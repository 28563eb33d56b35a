"""GeoPackage of predictions with QGIS styles.

QGIS reads styles from the table `layer_styles` and applies the default one, the estimate of the
first indicator; the others are under Layer Properties > Symbology > Style > Load Style > From
Database.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree as ET

import geopandas as gpd
import matplotlib
import numpy as np
from matplotlib.colors import to_hex
from numpy.typing import NDArray

from dataset_builders.files import atomic_path

LAYER = "predictions"
VERSION = "1.2"
"""GeoPackage version that older QGIS reads without a warning."""
NUM_CLASSES = 7
SEQUENTIAL, UNCERTAIN, DIVERGING = "viridis", "YlOrBr", "RdBu_r"
STYLE_TABLE = """
CREATE TABLE layer_styles (
    id INTEGER PRIMARY KEY AUTOINCREMENT, f_table_catalog TEXT(256), f_table_schema TEXT(256),
    f_table_name TEXT(256), f_geometry_column TEXT(256), styleName TEXT(30), styleQML TEXT,
    styleSLD TEXT, useAsDefault BOOLEAN, description TEXT, owner TEXT(30), ui TEXT(30),
    update_time DATETIME DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
)
"""


def write_geopackage(table: gpd.GeoDataFrame, path: Path, units: dict[str, str]) -> None:
    """Write predictions with styles for estimate, interval width and residual of each indicator.

    Args:
        table: See [`pipelines.prediction.predict_regions`].
        path: Output file, replaced atomically.
        units: Unit of each indicator, in the order of the styles.
    """
    plain = gpd.GeoDataFrame(table).copy()
    plain.attrs = {}
    geometry = "geom"  # GDAL's name
    with atomic_path(path) as temporary:
        unfinished = temporary.with_suffix(".gpkg")  # GDAL warns about other suffixes
        unfinished.unlink(missing_ok=True)
        plain.rename_geometry(geometry).to_file(
            unfinished, layer=LAYER, driver="GPKG", dataset_options={"VERSION": VERSION}
        )
        with closing(sqlite3.connect(unfinished)) as connection, connection:
            _write_styles(connection, _styles(table, units), geometry)
        unfinished.replace(temporary)


def _styles(table: gpd.GeoDataFrame, units: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Names and QML of the styles of estimate, interval width and residual of each indicator."""
    for name, unit in units.items():
        predicted, low, high = (
            table[f"{name}_{part}"].to_numpy(float) for part in ("predicted", "low", "high")
        )
        quoted = name.replace('"', '""')
        columns = [f'"{quoted}_{part}"' for part in ("predicted", "low", "high")]
        parts = (
            (f"{name}, estimate ({unit})", columns[0], predicted, SEQUENTIAL),
            (f"{name}, width of the 90 % interval", f"{columns[2]} - {columns[1]}", high - low,
             UNCERTAIN),
            (f"{name}, estimate - measured", f'{columns[0]} - "{quoted}"',
             predicted - table[name].to_numpy(float), DIVERGING),
        )  # fmt: skip
        for title, expression, values, palette in parts:
            breaks = class_breaks(values, symmetric=palette == DIVERGING)
            if len(breaks) > 1:
                yield title, _to_qml(expression, breaks, palette)


def class_breaks(
    values: NDArray[np.float64], symmetric: bool = False, classes: int = NUM_CLASSES
) -> list[float]:
    """Quantile class limits, or limits symmetric about zero."""
    known = values[np.isfinite(values)]
    if not len(known):
        return []
    if symmetric:
        most = float(np.quantile(np.abs(known), 0.95)) or 1.0
        inner = np.linspace(-most, most, classes + 1)[1:-1]
        outer = max(float(np.abs(known).max()), most)
        return [-outer, *inner.tolist(), outer]
    breaks = np.unique(np.quantile(known, np.linspace(0, 1, classes + 1)))
    if len(breaks) == 1:
        breaks = np.array([breaks[0], breaks[0] + 1.0])
    return breaks.tolist()


def _write_styles(
    connection: sqlite3.Connection, found: Iterable[tuple[str, str]], geometry: str
) -> None:
    connection.execute(STYLE_TABLE)
    connection.execute(
        "INSERT INTO gpkg_contents (table_name, data_type, identifier) "
        "VALUES ('layer_styles', 'attributes', 'layer_styles')"
    )
    for number, (name, qml) in enumerate(found):
        connection.execute(
            "INSERT INTO layer_styles (f_table_catalog, f_table_schema, f_table_name, "
            "f_geometry_column, styleName, styleQML, styleSLD, useAsDefault, description, owner) "
            "VALUES ('', '', ?, ?, ?, ?, '', ?, '', '')",
            (LAYER, geometry, name, qml, number == 0),
        )


def _to_qml(expression: str, breaks: Sequence[float], palette: str) -> str:
    """Graduated style of an expression in QML, QGIS's style format."""
    root = ET.Element("qgis", version="3.22", styleCategories="Symbology")
    renderer = ET.SubElement(
        root,
        "renderer-v2",
        type="graduatedSymbol",
        attr=expression,
        graduatedMethod="GraduatedColor",
        symbollevels="0",
        enableorderby="0",
        forceraster="0",
    )
    ranges, symbols = ET.SubElement(renderer, "ranges"), ET.SubElement(renderer, "symbols")
    colours = matplotlib.colormaps[palette](np.linspace(0.05, 0.95, len(breaks) - 1))
    for number, (low, high) in enumerate(pairwise(breaks)):
        ET.SubElement(
            ranges,
            "range",
            symbol=str(number),
            lower=repr(float(low)),
            upper=repr(float(high)),
            label=f"{low:.4g} - {high:.4g}",
            render="true",
        )
        symbols.append(_fill(number, to_hex(colours[number])))
    tree = ET.tostring(root, encoding="unicode")
    return f"<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n{tree}"


def _fill(number: int, colour: str) -> ET.Element:
    symbol = ET.Element("symbol", name=str(number), type="fill", alpha="1", clip_to_extent="1")
    layer = ET.SubElement(
        symbol, "layer", {"class": "SimpleFill", "enabled": "1", "pass": "0", "locked": "0"}
    )
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    options = ET.SubElement(layer, "Option", type="Map")
    for name, value in {
        "color": f"{red},{green},{blue},255",
        "style": "solid",
        "outline_color": "255,255,255,120",
        "outline_style": "solid",
        "outline_width": "0.1",
        "outline_width_unit": "MM",
    }.items():
        ET.SubElement(options, "Option", name=name, type="QString", value=value)
        ET.SubElement(layer, "prop", k=name, v=value)
    return symbol


__all__ = ["LAYER", "class_breaks", "write_geopackage"]
