"""Results to a page: tables with controls, scatter plots, maps, and what was left out."""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dataset_builders.files import atomic_path

from .errors import InputError
from .probe import (
    CONTROL_NAMES,
    NO_VIEW,
    PREDICTIONS_FOLDER,
    REGIONS_FILE,
    RESULTS_FILE,
    SUMMARY_FILE,
)
from .results import ResultRow, read_rows
from .splits import PROTOCOLS
from .systems import WITH_COORDINATES

REPORT_FILE, FIGURES_FOLDER = "report.md", "figures"
PROTOCOL_TITLES = {
    "random": "Interpolation (`random`: 6:2:2 of the regions at random)",
    "block": "New district (`block`: whole districts held out)",
}
METRIC_TITLES = {
    "r2": "R²",
    "rmse": "RMSE",
    "mae": "MAE",
    "spearman": "Spearman's rank correlation",
}
LOWER_IS_BETTER = ("rmse", "mae")
PROBE_NAMES = {
    "mlp": "MLP",
    "ridge": "ridge",
    "mean": "–",
    "knn": "k-NN",
    "gbm": "gradient boosting",
}
VIEW_NAMES = {"street_view": "street view", "satellite": "satellite", "both": "both", "none": "–"}
VIEW_ORDER = ("none", "street_view", "satellite", "both")
DASH = "–"
TRAINED = 100  # rank of a trained system, behind all controls

Key = tuple[str, str, str]  # system, view, probe


@dataclass(frozen=True)
class CityResults:
    """What the report of one city draws on.

    Attributes:
        folder: the city's results.
        summary: its probe.json.
        rows: the rows that compare with one another.
        outdated: rows left out, for they belong to other regions, labels, settings or vectors.
    """

    folder: Path
    summary: dict[str, Any]
    rows: list[ResultRow]
    outdated: int

    @property
    def title(self) -> str:
        """The city's name, marked where it is simulated."""
        name = self.summary["city"].replace("_", " ").title()
        return f"{name} (synthetic)" if self.summary["synthetic"] else name

    @property
    def indicators(self) -> list[str]:
        """Those with a result, in the dataset's order."""
        have = {row.indicator for row in self.rows}
        return [name for name in self.summary["indicators"] if name in have]


def read_city(folder: Path) -> CityResults:
    """The results of one city that compare with the latest run of `probe`."""
    summary = json.loads((folder / SUMMARY_FILE).read_text(encoding="utf-8"))
    hashes = {name: system["embedding_hash"] for name, system in summary["systems"].items()}
    hashes |= {WITH_COORDINATES + name: known for name, known in hashes.items()}
    hashes |= dict.fromkeys(CONTROL_NAMES, "")
    rows, outdated = [], 0
    for row in read_rows(folder / RESULTS_FILE):
        current = row.table_hash == summary["table_hash"]
        if current and hashes.get(row.system) == row.embedding_hash:
            rows.append(row)
        else:
            outdated += 1
    return CityResults(folder, summary, rows, outdated)


def write_report(output: Path, echo: Callable[[str], None] = print) -> Path:
    """Write `report.md` and its figures from all cities in a folder.

    Args:
        output: the folder that `probe` was given.
        echo: takes the tables of R2.

    Returns:
        The path of report.md.

    Raises:
        InputError: there are no results.
    """
    folders = sorted(path.parent for path in output.glob(f"*/{SUMMARY_FILE}"))
    cities = [city for city in map(read_city, folders) if city.rows]
    if not cities:
        raise InputError(f"No results in {output}. Run `python evaluate.py probe` first.")
    parts = [_introduction(cities)]
    for city in cities:
        parts.append(_city_section(city, output / FIGURES_FOLDER))
        for protocol in _protocols(city):
            echo(f"\n{city.title}: {PROTOCOL_TITLES[protocol]}, R²\n")
            echo(score_table(city, protocol, "r2"))
    path = output / REPORT_FILE
    with atomic_path(path) as temporary:
        temporary.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return path


# ------------------------------------------------------------------------ tables


def score_table(city: CityResults, protocol: str, metric: str) -> str:
    """Systems x indicators in Markdown: mean ± SD over splits, the best in bold, controls first."""
    rows = [row for row in city.rows if row.protocol == protocol]
    scores = _scores(rows, metric)
    keys = sorted({key for key, _ in scores}, key=lambda key: _order(city, key))
    indicators = [name for name in city.indicators if any(row.indicator == name for row in rows)]
    best = {name: _best(scores, keys, name, metric) for name in indicators}
    header = ["system", "view", "probe", *indicators]
    body = []
    for key in keys:
        system, view, probe = key
        cells = [_cell(scores.get((key, name)), best[name] == key) for name in indicators]
        body.append([_system_name(city, system), VIEW_NAMES[view], PROBE_NAMES[probe], *cells])
    body.append(
        ["*n test*", "", "", *(_spread(rows, name, "n_test", "{:.0f}") for name in indicators)]
    )
    body.append(
        ["*label SD (test)*", "", ""]
        + [_spread(rows, name, "label_sd_test", "{:.2f}") for name in indicators]
    )
    return markdown_table(header, body)


def markdown_table(header: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """A Markdown table whose columns are aligned in plain text too."""
    rows = [list(header), *map(list, body)]
    widths = [max(3, *(len(row[column]) for row in rows)) for column in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(c.ljust(w) for c, w in zip(cells, widths, strict=True)) + " |"

    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([line(rows[0]), rule, *map(line, rows[1:])])


def _scores(rows: Sequence[ResultRow], metric: str) -> dict[tuple[Key, str], pd.Series]:
    """Key and indicator -> score by split seed; several probe seeds of a split are averaged."""
    collected: dict[tuple[Key, str], list[tuple[int, float]]] = {}
    for row in rows:
        name = ((row.system, row.view, row.probe), row.indicator)
        collected.setdefault(name, []).append((row.split_seed, getattr(row, metric)))
    return {
        name: pd.DataFrame(pairs, columns=["split_seed", "score"])
        .groupby("split_seed")["score"]
        .mean()
        for name, pairs in collected.items()
    }


def _order(city: CityResults, key: Key) -> tuple[Any, ...]:
    """Controls first: nothing seen, places only, simple features, drawn weights."""
    system, view, probe = key
    return _rank(city, system), system, VIEW_ORDER.index(view), probe != "mlp"


def _rank(city: CityResults, system: str) -> int:
    if system in CONTROL_NAMES:
        return CONTROL_NAMES.index(system)
    simple = len(CONTROL_NAMES)
    if system.startswith(WITH_COORDINATES):
        return simple + 2
    metadata = city.summary["systems"][system]
    if metadata["encoder"] == "colour_texture":
        return simple
    return simple + 1 if metadata["random_init"] else TRAINED


def _system_name(city: CityResults, system: str) -> str:
    names = {
        "mean": "mean (control)",
        "coordinates": "coordinates only (control)",
        "poi_counts": "points of interest (control)",
    }
    if system in names:
        return names[system]
    if system.startswith(WITH_COORDINATES):
        return f"coordinates and {system.removeprefix(WITH_COORDINATES)}"
    return f"{system} (control)" if _rank(city, system) < TRAINED else system


def _best(
    scores: dict[tuple[Key, str], pd.Series], keys: Sequence[Key], indicator: str, metric: str
) -> Key | None:
    means = {key: scores[key, indicator].mean() for key in keys if (key, indicator) in scores}
    means = {key: mean for key, mean in means.items() if math.isfinite(mean)}
    if not means:
        return None
    return (min if metric in LOWER_IS_BETTER else max)(means, key=lambda key: means[key])


def _cell(scores: pd.Series | None, is_best: bool) -> str:
    if scores is None or scores.isna().all():
        return DASH
    text = f"{scores.mean():.3f}"
    text = f"**{text}**" if is_best else text
    return f"{text} ± {scores.std():.3f}" if scores.notna().sum() > 1 else text


def _spread(rows: Sequence[ResultRow], indicator: str, name: str, form: str) -> str:
    values = [getattr(row, name) for row in rows if row.indicator == indicator]
    low, high = form.format(min(values)), form.format(max(values))
    return low if low == high else f"{low}{DASH}{high}"


# ---------------------------------------------------------------------- sections


def _introduction(cities: Sequence[CityResults]) -> str:
    simulated = [city.title for city in cities if city.summary["synthetic"]]
    lines = ["# Indicators predicted from region vectors" + (" (synthetic)" if simulated else "")]
    if simulated:
        lines.append(
            f"**{', '.join(simulated)}: synthetic data.** Images, captions and indicators are "
            "simulated; the figures say whether the machinery works, not how real cities look."
        )
    lines.append(
        "Frozen vectors, a light probe. Errors are on the scale ln(y + 1) where the indicator is a "
        "count, density or intensity, and as stored otherwise. Figures are means ± SD over splits "
        "of the test regions; the best of a column is bold, controls included. Vectors and labels "
        "are standardised on the training regions; hyper-parameters are chosen on validation "
        "regions alone, from the same grid for all. All systems share regions, labels and splits. "
        "Controls: the mean of the training labels; the k nearest training regions by coordinates "
        "alone; simple colour and texture; the architecture with random weights. What does not "
        "beat them has seen nothing."
    )
    return "\n\n".join(lines)


def _city_section(city: CityResults, figures: Path) -> str:
    parts = [f"## {city.title}", _about(city)]
    for protocol in _protocols(city):
        parts.append(f"### {city.title}: {PROTOCOL_TITLES[protocol]}")
        parts.append(_protocol_notes(city, protocol))
        for metric, title in METRIC_TITLES.items():
            caption = f"**{title}**" + (" (synthetic)" if city.summary["synthetic"] else "")
            parts.append(f"{caption}\n\n{score_table(city, protocol, metric)}")
        parts += _figures(city, protocol, figures)
    parts.append(_left_out(city))
    return "\n\n".join(parts)


def _protocols(city: CityResults) -> list[str]:
    return [name for name in PROTOCOLS if any(row.protocol == name for row in city.rows)]


def _about(city: CityResults) -> str:
    summary = city.summary
    regions = summary["regions"]
    text = (
        f"Dataset: `{summary['dataset_name']}`. {regions['compared']} of {regions['all']} regions "
    )
    text += "are compared."
    header = ["system", "encoder", "numbers a view", "street views", "satellite", "left out"]
    body = []
    for name, system in sorted(summary["systems"].items(), key=lambda item: _rank(city, item[0])):
        encoder = system["encoder"] + (", random weights" if system["random_init"] else "")
        images = [str(system["images"][view]) for view in ("street_view", "satellite")]
        rejects = ", ".join(f"{reason} {n}" for reason, n in system["rejects"].items())
        body.append([name, encoder, str(system["dim"]), *images, rejects or "0"])
    return f"{text}\n\n{markdown_table(header, body)}"


def _protocol_notes(city: CityResults, protocol: str) -> str:
    rows = [row for row in city.rows if row.protocol == protocol]
    seeds = Counter(row.split_seed for row in rows)
    probe_seeds = len({row.probe_seed // 1000 for row in rows})
    text = f"{len(seeds)} splits (seeds {min(seeds)} to {max(seeds)}"
    text += ", 0 is the one stored in the dataset" if 0 in seeds else ""
    text += f"), {probe_seeds} draw(s) of MLP weights each."
    if protocol == "block":
        drawn = city.summary["block_m"]
        text += (
            f" Drawn blocks have sides of {drawn:.0f} m; regions within "
            f"{city.summary['buffer_m']:.0f} m of a held-out one are left out of training."
        )
    sizes = {len(g) for _, g in _scores(rows, "rmse").items()}
    if len(sizes) > 1:
        text += " **Not all rows have all splits: run `probe` again to complete them.**"
    return text


def _left_out(city: CityResults) -> str:
    summary = city.summary
    lines = [f"Regions: {n}, {reason}." for reason, n in summary["regions"]["dropped"].items()]
    if summary["without_coordinates"]:
        lines.append(
            f"The control by coordinates: {summary['without_coordinates']} regions have none."
        )
    for name, n in summary["invalid_labels"].items():
        lines.append(f"Labels of {name}: {n} are negative or infinite and count as missing.")
    skipped = Counter((s["indicator"], s["protocol"], s["reason"]) for s in summary["skipped"])
    for (indicator, protocol, reason), n in skipped.items():
        lines.append(f"{indicator}, {protocol}: {n} split(s) not scored: {reason}")
    if city.outdated:
        lines.append(
            f"{city.outdated} rows of results.jsonl were computed on other regions, labels, "
            "settings or vectors, and do not compare."
        )
    lines = [line if line.endswith(".") else line + "." for line in lines]
    return "### Left out\n\n" + ("\n".join(f"- {line}" for line in lines) or "Nothing.")


# ----------------------------------------------------------------------- figures


def _figures(city: CityResults, protocol: str, folder: Path) -> list[str]:
    key = _drawn_system(city, protocol)
    if key is None:
        return []
    from .plots import draw_maps, draw_scatter

    predictions = _predictions(city, protocol, key)
    system, view, probe = key
    what = f"{system}, {VIEW_NAMES[view]}, {PROBE_NAMES[probe]}"
    title = f"{city.title}, {PROTOCOLS[protocol]}: {what}"
    rows = [r for r in city.rows if r.protocol == protocol and (r.system, r.view, r.probe) == key]
    scores = {name: series for (_, name), series in _scores(rows, "r2").items()}
    stem = f"{city.summary['city']}-{protocol}"
    folder.mkdir(parents=True, exist_ok=True)
    draw_scatter(
        folder / f"{stem}-scatter.png", title, predictions, scores, city.summary["indicators"]
    )
    parts = [
        f"![{title}: prediction against truth]({FIGURES_FOLDER}/{stem}-scatter.png)\n\n"
        f"*Test predictions of {what} over all splits, drawn because its mean R² is the best of "
        "the trained systems here; the tables hold the others.*"
    ]
    drawn = draw_maps(
        folder / f"{stem}-map.png",
        title,
        city.folder / REGIONS_FILE,
        predictions,
        city.summary["indicators"],
    )
    if drawn:
        parts.append(
            f"![{title}: maps of truth, prediction and residual]({FIGURES_FOLDER}/{stem}-map.png)"
            "\n\n*Prediction: mean over the splits in which a region is tested. Residual: "
            "prediction less truth. Grey: never tested, or no label.*"
        )
    else:
        parts.append("No map: the dataset gives no geometry of its regions.")
    return parts


def _drawn_system(city: CityResults, protocol: str) -> Key | None:
    """The best trained system by mean R2 over indicators; where there is none, the best drawn."""
    rows = [
        row
        for row in city.rows
        if row.protocol == protocol
        and row.view != NO_VIEW
        and not row.system.startswith(WITH_COORDINATES)
    ]
    if not rows:
        return None
    top = max(_rank(city, row.system) for row in rows)
    scores = _scores([row for row in rows if _rank(city, row.system) == top], "r2")
    means: dict[Key, list[float]] = {}
    for (key, _), series in scores.items():
        means.setdefault(key, []).append(float(series.mean()))
    return max(means, key=lambda key: np.nan_to_num(np.mean(means[key]), nan=-np.inf))


def _predictions(city: CityResults, protocol: str, key: Key) -> pd.DataFrame:
    """Test predictions of a system: region_id, indicator, split_seed, truth, prediction."""
    import pyarrow.dataset as pads

    system, view, probe = key
    wanted = (
        (pads.field("table_hash") == city.summary["table_hash"])
        & (pads.field("embedding_hash") == city.summary["systems"][system]["embedding_hash"])
        & (pads.field("protocol") == protocol)
        & (pads.field("system") == system)
        & (pads.field("view") == view)
        & (pads.field("probe") == probe)
    )
    folder = pads.dataset(city.folder / PREDICTIONS_FOLDER, format="parquet")
    columns = ["region_id", "indicator", "split_seed", "probe_seed", "truth", "prediction"]
    frame = folder.to_table(columns=columns, filter=wanted).to_pandas()
    # a killed run may have left predictions that the next one wrote again
    frame = frame.drop_duplicates(["region_id", "indicator", "split_seed", "probe_seed"])
    return frame.sort_values(["indicator", "split_seed", "region_id"], ignore_index=True)


__all__ = ["CityResults", "markdown_table", "read_city", "score_table", "write_report"]
