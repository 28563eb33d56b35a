"""Output files of a prediction: tables, GeoPackage, verdict and HTML page."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import geopandas as gpd
import pyarrow as pa
import pyarrow.parquet as pq

from dataset_builders.files import atomic_path, write_json
from dataset_builders.photos import PhotoReject
from pipelines.common.pages import page_environment
from pipelines.evaluation.analysis.reach import draw_reach

from .geopackage import write_geopackage
from .maps import data_address, indicator_maps
from .vectors import Log

if TYPE_CHECKING:
    from .predict import Predictions

PARQUET, GEOPACKAGE = "predictions.parquet", "predictions.gpkg"
VERDICT, PAGE, REJECTS = "verdict.json", "predictions.html", "rejects.parquet"
STATUSES = {
    "held_out": "labelled; predicted by a model not trained on its district",
    "unlabelled": "no label; predicted by a model trained on all labelled regions",
    "unlike_training": "no label, and images unlike those of all labelled regions: unreliable",
    "no_image": "no usable image or raster cell, no prediction",
}
REJECT_SCHEMA = pa.schema([(name, pa.string()) for name in ("file", "reason", "detail")])


def write_outputs(
    found: "Predictions",
    rejects: Sequence[PhotoReject],
    folder: Path,
    log: Log,
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
    _write_page(found, folder / PAGE)
    log(
        f"Wrote {folder / GEOPACKAGE} (QGIS), {folder / PARQUET}, {folder / VERDICT} and "
        f"{folder / PAGE}."
    )


def _write_page(found: "Predictions", path: Path) -> None:
    sections = [_section(found, number) for number in range(len(found.verdicts))]
    template = page_environment(__package__).get_template("predictions.html.j2")
    text = template.render(found=found, sections=sections, statuses=STATUSES)
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _section(found: "Predictions", number: int) -> dict[str, Any]:
    verdict = found.verdicts[number]
    counts = Counter(found.table[f"{verdict.indicator}_status"])
    picture = indicator_maps(found.table, verdict.indicator, verdict.unit)
    winner = {"yes": 0, "no": 1}.get(verdict.better_than_location)
    scores = [
        ("images", verdict.images),
        (f"location alone ({verdict.location_model})", verdict.location),
        ("images and location", verdict.both),
    ]
    return {
        "verdict": verdict,
        "counts": [(name, counts[name]) for name in STATUSES if counts[name]],
        "map": data_address(picture),
        "reach": data_address(draw_reach(verdict.reach)) if verdict.reach else None,
        "scores": [(name, score.text, k == winner) for k, (name, score) in enumerate(scores)],
    }


__all__ = ["write_outputs"]
