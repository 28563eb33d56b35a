"""Output files of a prediction: tables, GeoPackage, verdict and HTML page."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import geopandas as gpd
import pyarrow as pa
import pyarrow.parquet as pq

from dataset_builders.files import atomic_path, write_json
from dataset_builders.photos import PhotoReject

from .geopackage import write_geopackage
from .page import write_page

if TYPE_CHECKING:
    from .predict import Predictions

PARQUET, GEOPACKAGE = "predictions.parquet", "predictions.gpkg"
VERDICT, PAGE, REJECTS = "verdict.json", "predictions.html", "rejects.parquet"
REJECT_SCHEMA = pa.schema([(name, pa.string()) for name in ("file", "reason", "detail")])


def write_outputs(
    found: "Predictions",
    rejects: Sequence[PhotoReject],
    folder: Path,
    log: Callable[[str], None],
) -> None:
    """Write all output files atomically."""
    folder.mkdir(parents=True, exist_ok=True)
    units = {verdict.indicator: verdict.unit for verdict in found.verdicts}
    table = gpd.GeoDataFrame(found.table).copy()
    table.attrs = {}
    with atomic_path(folder / PARQUET) as temporary:
        table.to_parquet(temporary)
    write_geopackage(table, folder / GEOPACKAGE, units)
    write_json(
        folder / VERDICT,
        {
            "synthetic": found.synthetic,
            "encoder": found.encoder,
            "verdicts": [verdict.as_dict() for verdict in found.verdicts],
            "notes": found.notes,
        },
    )
    with atomic_path(folder / REJECTS) as temporary:
        rows = [asdict(reject) for reject in rejects]
        pq.write_table(pa.Table.from_pylist(rows, schema=REJECT_SCHEMA), temporary)
    write_page(found, folder / PAGE)
    log(
        f"Wrote {folder / GEOPACKAGE} (QGIS), {folder / PARQUET}, {folder / VERDICT} and "
        f"{folder / PAGE}."
    )


__all__ = ["write_outputs"]
