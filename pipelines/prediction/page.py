"""Self-contained HTML page of predictions: verdict, scores and maps."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dataset_builders.files import atomic_path
from pipelines.common.pages import page_environment
from pipelines.evaluation.analysis.reach import draw_reach

from .maps import data_address, indicator_maps

if TYPE_CHECKING:
    from .predict import Predictions

STATUSES = {
    "held_out": "labelled; predicted by a model not trained on its district",
    "unlabelled": "no label; predicted by a model trained on all labelled regions",
    "unlike_training": "no label, and images unlike those of all labelled regions: unreliable",
    "no_image": "no usable image or raster cell, no prediction",
}


def write_page(found: "Predictions", path: Path) -> None:
    """Render the page."""
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


__all__ = ["write_page"]
