"""The pictures of a city's section: prediction against truth, and maps."""

from pathlib import Path

from ..probe.predictions import PREDICTIONS_FOLDER, REGIONS_FILE, read_predictions
from ..probe.splits import PROTOCOLS
from .documents import Block, Picture, Text
from .frame import CityResults, best_key, by_run, slug, what
from .plots import draw_maps, draw_scatter


def prediction_figures(city: CityResults, protocol: str, output: Path, folder: str) -> list[Block]:
    """Scatter plot and maps of the best trained system; nothing where no system saw an image.

    Args:
        city: whose predictions.
        protocol: of the splits.
        output: where the page lies.
        folder: of the pictures, below it.
    """
    rows = city.of(protocol)
    key = best_key(city, rows)
    if key is None:
        return []
    system, view, probe = key
    label = city.members[system][0]
    wanted = {
        "table_hash": city.summary["table_hash"],
        "embedding_hash": city.summary["systems"][label]["embedding_hash"],
        "protocol": protocol,
        "system": label,
        "view": view,
        "probe": probe,
    }
    predictions = read_predictions(city.folder / PREDICTIONS_FOLDER, wanted)
    title = f"{city.title}, {PROTOCOLS[protocol]}: {what(key)}"
    mine = [row for row in rows if (row.system, row.view, row.probe) == (label, view, probe)]
    scores = {name: series for (_, name), series in by_run(city, mine, "r2").items()}
    trainings = len(city.members[system])
    one_of = f" Predictions of the first of its {trainings} trainings." if trainings > 1 else ""
    indicators = city.summary["indicators"]
    scatter, maps = (
        f"{folder}/{slug(city.name, protocol)}-{kind}.png" for kind in ("scatter", "map")
    )
    (output / folder).mkdir(parents=True, exist_ok=True)
    draw_scatter(output / scatter, title, predictions, scores, indicators)
    blocks: list[Block] = [
        Picture(
            scatter,
            f"{title}: prediction against truth",
            f"Test predictions of {what(key)} over all splits, in the view and by the probe of its "
            "highest mean R². Values are in raw units; where they are scored as ln(y + 1), so are "
            f"the axes.{one_of}",
        )
    ]
    if draw_maps(output / maps, title, city.folder / REGIONS_FILE, predictions, indicators):
        blocks.append(
            Picture(
                maps,
                f"{title}: maps of truth, prediction and residual",
                "Prediction: mean over the splits in which a region is tested. Residual: "
                "prediction less truth; where ln(y + 1) is predicted, the factor (prediction + 1) "
                "/ (truth + 1). Grey: never tested, or no label.",
            )
        )
    else:
        blocks.append(Text("No map: the dataset gives no geometry of its regions."))
    return blocks


__all__ = ["prediction_figures"]
