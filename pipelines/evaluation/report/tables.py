"""Tables of a city's section of the report.

Tables with scores of models always include the scores of the controls.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, fields

import numpy as np
import pandas as pd

from ..analysis.bootstrap import MEAN, Difference
from ..analysis.conformal import Coverage
from ..errors import InputError
from ..probe.systems import NO_VIEW
from .frame import (
    CELL,
    KEY,
    LOWER_IS_BETTER,
    METRIC_TITLES,
    PROBE_NAMES,
    PROTOCOL_TITLES,
    VIEW_NAMES,
    CityResults,
    Key,
    is_frozen_clip,
    is_untrained,
    key_of,
    run_scores,
    slug,
    spreads,
)
from .rendering import DASH, Column, Table, intervals, numbers, words

QUANTILES = {"split": "regions", "block": "blocks"}


def name_columns(city: CityResults, keys: Iterable[Key]) -> list[Column]:
    """Columns system, view and probe."""
    keys = list(keys)
    return [
        words("system", (city.system_title(system, beside) for system, beside, _, _ in keys)),
        words("view", (VIEW_NAMES[key[2]] for key in keys)),
        words("probe", (PROBE_NAMES[key[3]] for key in keys)),
    ]


# ---- scores -------------------------------------------------------------------------------------


def score_table(
    city: CityResults,
    protocol: str,
    metric: str,
    beside: bool = False,
    views: Collection[Key] | None = None,
) -> Table:
    """Table of systems by indicators: mean ± SD over splits, best in bold, controls first.

    Args:
        city: Results of the city.
        protocol: Split protocol.
        metric: Name of a metric.
        beside: Whether to show combinations with other inputs instead of embeddings alone.
        views: Image systems with view and probe to show; all by default.

    Raises:
        InputError: An indicator has results of models but not of the controls.
    """
    rows = city.of(protocol)
    joint = rows["beside"] != ""
    rows = rows[(joint == beside) | ((rows["view"] == NO_VIEW) & ~joint)]
    require_controls(city, rows)
    cells = run_scores(rows, metric).groupby(CELL)
    mean, sd = cells.mean().unstack("indicator"), cells.std().unstack("indicator")
    keys = sorted(mean.index, key=city.order)
    if views is not None:
        keys = [key for key in keys if key[2] == NO_VIEW or key in views]
    mean, sd = mean.loc[keys], sd.loc[keys]
    indicators = city.ordered(mean.columns)
    kind = " of embeddings combined with others" if beside else ""
    shown = ", each system in its best view" if views is not None else ""
    return Table(
        slug(city.name, protocol, metric, *(["beside"] * beside), *(["best"] * bool(views))),
        f"{METRIC_TITLES.get(metric, metric)}{kind}, {city.title}, {short(protocol)}{shown}",
        [
            *name_columns(city, keys),
            *(numbers(i, mean[i], spread=sd[i], bold=_best(mean[i], metric)) for i in indicators),
        ],
        footer=[
            ["n test", "", "", *_ranges(rows, indicators, "n_test", ".0f")],
            ["label SD (test)", "", "", *_ranges(rows, indicators, "label_sd_test", ".2f")],
        ],
        notes=[*_missing_controls(city, rows), *_trainings_notes(city, keys)],
    )


def require_controls(city: CityResults, rows: pd.DataFrame) -> None:
    """Check that all indicators have results of the controls.

    Raises:
        InputError: The mean is missing, or coordinates where the regions have them.
    """
    needed = ["mean"] if city.summary.get("without_coordinates") else ["mean", "coordinates"]
    seen = set(rows.loc[rows["view"] != NO_VIEW, "indicator"])
    for indicator, own in rows.groupby("indicator")["system"]:
        missing = [name for name in needed if name not in set(own)]
        if indicator in seen and missing:
            raise InputError(
                f"{city.folder} has rows of models on {indicator!r} but none of the control "
                f"{missing[0]!r}, without which scores cannot be interpreted. Run `python "
                "evaluate.py probe` again to add it."
            )


def _missing_controls(city: CityResults, rows: pd.DataFrame) -> Iterable[str]:
    """Note on controls that need an encoder: untrained encoder and frozen CLIP."""
    systems = city.summary["systems"]
    metadata = [systems[label] for label in rows["label"].unique() if label in systems]
    if not metadata:  # embeddings combined with others
        return
    controls = {"an untrained encoder": is_untrained, "a frozen CLIP": is_frozen_clip}
    missing = [name for name, test in controls.items() if not any(map(test, metadata))]
    if missing:
        yield f"Missing controls: {' and '.join(missing)}."


def _trainings_notes(city: CityResults, keys: Iterable[Key]) -> Iterable[str]:
    """Notes on systems with several trainings."""
    counts: dict[int, list[str]] = {}
    for system in dict.fromkeys(key[0] for key in keys):
        counts.setdefault(len(city.members.get(system, ())), []).append(system)
    for count, systems in sorted(counts.items()):
        if count > 1:
            yield f"Mean ± SD over splits and {count} training seeds: {', '.join(systems)}."


def short(protocol: str) -> str:
    """Title of a protocol without its explanation."""
    return PROTOCOL_TITLES[protocol].split(" (")[0].lower()


def _best(values: pd.Series, metric: str) -> list[bool]:
    signed = -values if metric in LOWER_IS_BETTER else values
    best = int(signed.fillna(-np.inf).to_numpy().argmax())
    return [row == best and bool(np.isfinite(value)) for row, value in enumerate(values)]


def _ranges(rows: pd.DataFrame, indicators: list[str], column: str, form: str) -> Iterable[str]:
    """Smallest and largest value of a column per indicator."""
    for _, ends in rows.groupby("indicator")[column].agg(["min", "max"]).loc[indicators].iterrows():
        yield DASH.join(dict.fromkeys(format(end, form) for end in ends))


def spread_table(city: CityResults, protocol: str) -> Table | None:
    """Table of the SD of R2 over splits and over training seeds; None without several seeds."""
    found = spreads(run_scores(city.of(protocol), "r2"))
    found = found[found["trainings"] > 1]
    if found.empty:
        return None
    wide = found.unstack("indicator")
    keys = sorted(wide.index, key=city.order)
    wide = wide.loc[keys]
    seeds = numbers("seeds", (len(city.members.get(key[0], ())) for key in keys), form=".0f")
    return Table(
        slug(city.name, protocol, "r2-spread"),
        f"SD of R² over splits and over training seeds, {city.title}, {short(protocol)}",
        [
            *name_columns(city, keys),
            seeds,
            *(
                numbers(part, wide[part, name], group=name)
                for name in city.ordered(found.index.unique("indicator"))
                for part in ("splits", "training")
            ),
        ],
        notes=[
            "Splits: SD over splits of the mean over training seeds. Training: SD over training "
            "seeds of the mean over splits."
        ],
    )


# ---- differences --------------------------------------------------------------------------------


def differences_frame(found: Sequence[Difference]) -> pd.DataFrame:
    """Tidy DataFrame of R2 differences with their intervals."""
    return pd.DataFrame(
        [
            (*key_of((d.system, d.view, d.probe)), d.indicator, d.reference, d.reference_probe,
             d.protocol, d.blocks, *asdict(d.intervals["r2"]).values())
            for d in found
        ],
        columns=[*CELL, "reference", "reference_probe", "protocol", "blocks",
                 "estimate", "low", "high"],
    )  # fmt: skip


def difference_table(
    city: CityResults, protocol: str, reference: str, differences: pd.DataFrame
) -> Table | None:
    """Table of R2 differences from a reference with 95 % intervals; None if there are none."""
    found = differences[(differences["protocol"] == protocol) & (differences["beside"] == "")]
    if found.empty:
        return None
    wide = found.set_index(CELL)[["estimate", "low", "high"]].unstack("indicator")
    keys = sorted(wide.index, key=city.order)
    wide = wide.loc[keys]
    fewest, most = found["blocks"].min(), found["blocks"].max()
    return Table(
        slug(city.name, protocol, "r2-to", reference),
        f"R² minus that of {reference}, {city.title}, {short(protocol)}",
        [
            *name_columns(city, keys),
            *(
                intervals(i, wide["estimate", i], wide["low", i], wide["high", i])
                for i in with_mean(city, found["indicator"])
            ),
        ],
        notes=[
            "Mean over splits, with a 95 % confidence interval from a paired bootstrap over "
            f"{fewest if fewest == most else f'{fewest} to {most}'} blocks of regions; bold where "
            "significant (the interval excludes 0). Scores are averaged over training seeds; the "
            "interval does not include the variance between them."
        ],
    )


def with_mean(city: CityResults, indicators: Collection[str]) -> list[str]:
    """Indicators in the dataset's order, followed by `mean` if present."""
    return [*city.ordered(indicators), *([MEAN] if MEAN in set(indicators) else [])]


# ---- prediction intervals -----------------------------------------------------------------------


def coverage_frame(city: CityResults, measured: Sequence[Coverage]) -> pd.DataFrame:
    """Tidy DataFrame of the coverage of prediction intervals, of ridge regression and controls."""
    columns = [one.name for one in fields(Coverage)]
    frame = pd.DataFrame([asdict(one) for one in measured], columns=columns)
    keys = [key_of(name) for name in frame[["system", "view", "probe"]].itertuples(index=False)]
    frame[KEY] = pd.DataFrame(keys, columns=KEY)
    groups = {label: system for system, own in city.members.items() for label in own}
    frame["system"] = frame["system"].map(groups).fillna(frame["system"])
    # one probe suffices here; intervals.json has all
    return frame[(frame["probe"] != "mlp") & (frame["beside"] == "")]


def coverage_table(city: CityResults, protocol: str, coverage: pd.DataFrame) -> Table | None:
    """Table of the coverage of prediction intervals; None without predictions."""
    own = coverage[coverage["protocol"] == protocol]
    if own.empty:
        return None
    measures = ["coverage", "half_width", "guaranteed"]
    means = own.groupby([*KEY, "method", "indicator"])[measures].mean().unstack("indicator")
    rows = sorted(means.index, key=lambda row: (city.order(row[:-1]), row[-1]))
    means = means.loc[rows]
    return Table(
        slug(city.name, protocol, "coverage"),
        f"Coverage of {own['level'].iloc[0]:.0%} prediction intervals, {city.title}, "
        f"{short(protocol)}",
        [
            *name_columns(city, [row[:-1] for row in rows]),
            words("quantile over", (QUANTILES[row[-1]] for row in rows)),
            *(
                _covered(name, *(means[measure, name] for measure in measures))
                for name in city.ordered(own["indicator"])
            ),
        ],
        notes=[
            "Share of test regions within prediction ± half-width, mean over splits; half-width in "
            "parentheses. It is a conformal quantile of the absolute validation errors: split "
            "conformal over regions, or hierarchical conformal over blocks. *: some split has too "
            "few blocks for this level, and the largest error is used."
        ],
    )


def _covered(name: str, share: pd.Series, width: pd.Series, guaranteed: pd.Series) -> Column:
    texts = [
        f"{s:.2f} (±{w:.2f}){'' if g == 1 else '*'}" if np.isfinite(s) else DASH
        for s, w, g in zip(share, width, guaranteed, strict=True)
    ]
    return Column(name, texts, [float(s) if np.isfinite(s) else None for s in share])


__all__ = [
    "coverage_frame",
    "coverage_table",
    "difference_table",
    "differences_frame",
    "name_columns",
    "require_controls",
    "score_table",
    "short",
    "spread_table",
    "with_mean",
]
