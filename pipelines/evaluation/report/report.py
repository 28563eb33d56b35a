"""Report of evaluation results: tables with controls, figures and caveats.

<output>/report.html, report.md    the report in two formats
<output>/tables/*.csv              all tables, unrounded
<output>/figures/*.png
<output>/CITY/differences.json     differences from the references, with intervals
<output>/CITY/added.csv            R2 added to location and to other tables, with intervals
"""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from dataset_builders.files import write_json

from ..analysis.bootstrap import (
    DIFFERENCES_FILE,
    Name,
    compare_all,
    drawn_cells,
    group_names,
)
from ..analysis.claims import variant_differences
from ..analysis.conformal import measure_coverage
from ..analysis.verdicts import best_of_indicator, best_views, is_control, validation_errors
from ..errors import InputError
from ..probe.predictions import REGIONS_FILE
from ..probe.splits import PROTOCOLS
from ..urban_regression.metrics import METRICS
from .figures import FIGURES_FOLDER, draw_maps, draw_scatter
from .frame import (
    PROTOCOL_TITLES,
    CityResults,
    best_key,
    key_of,
    predictions_of,
    read_cities,
    run_scores,
    slug,
    what,
)
from .limits import distance_table, limits, seeds_note, statistics_table, systems_table
from .other_results import efficiency_section, retrieval_table, transfer_section, zero_shot_table
from .regions import cluster_sections, reach_sections
from .rendering import Block, Figure, Section, write_report_files
from .summary import summary_blocks
from .tables import (
    coverage_frame,
    coverage_table,
    difference_table,
    differences_frame,
    score_table,
    spread_table,
)
from .variants import variants_frame, variants_section

READING = (
    "How to read the tables: a probe (ridge regression or an MLP) predicts each indicator from "
    "frozen region embeddings. Scores are means ± SD over splits and training seeds; the best "
    "score of each column is bold, controls included. Counts, densities and intensities are scored "
    "on the scale ln(y + 1). All systems share regions, labels and splits; hyper-parameters are "
    "chosen on the validation regions from one grid. The controls are the mean of the training "
    "labels, coordinates alone (k-NN, trees, ridge), points of interest, colour and texture "
    "features, and a randomly initialised encoder: a system that does not beat them has learned "
    "nothing useful."
)
ONE_BLOCK = (
    "No confidence intervals and comparisons: all test regions lie in one block. Run `probe` with "
    "more `--seeds`."
)
RECOMPUTE = (
    "`CITY/results.jsonl` holds one row per system, view, probe, indicator, protocol, split seed "
    "and probe seed. Only rows with the `table_hash` of `CITY/probe.json` are comparable.",
    "Table cells: select the rows of the system (all its training seeds, as grouped in "
    "`CITY/probe.json`), view, probe, indicator and protocol, and average over probe seeds. The "
    "table shows the mean and the standard deviation (n - 1) over splits and training seeds; "
    "`tables/*-spread.csv` separates the two sources of variance.",
    "R² = 1 - Σ(y - p)² / Σ(y - ȳ)², with the mean ȳ of the test labels; RMSE = √mean (y - p)²; "
    "MAE = mean |y - p|; label SD = √mean (y - ȳ)². `CITY/predictions/*.parquet` holds y and p of "
    "every row.",
    "Differences: R² of one system (mean over training seeds) minus R² of the other within each "
    "split, averaged over splits. The confidence interval spans the 2.5th to 97.5th percentile of "
    "2,000 bootstrap samples of blocks (`block_id` in `CITY/regions.parquet`); both systems and "
    "all splits share each sample. All differences are in `CITY/differences.json`.",
    "`tables/*.csv` holds unrounded numbers.",
)


def write_report(output: Path, echo: Callable[[str], None] = print) -> Path:
    """Write the report of all cities in a results folder.

    Args:
        output: Results folder of `probe`.
        echo: Callback for the tables of R2.

    Returns:
        Path of report.md.

    Raises:
        InputError: There are no results, or results of models without controls.
    """
    cities = read_cities(output)
    if not cities:
        raise InputError(f"No results in {output}. Run `python evaluate.py probe` first.")
    others = transfer_section(output), efficiency_section(output)
    blocks: list[Block] = [
        *(_city_section(city, echo) for city in cities),
        *(section for section in others if section),
        Section("Datasets", [statistics_table(cities)]),
        Section("How to recompute a number", [READING, [*RECOMPUTE]]),
    ]
    simulated = ", ".join(city.title for city in cities if city.synthetic)
    mark = " (synthetic)" if simulated else ""
    banner = (
        f"**{simulated}: synthetic data.** Images, captions and indicators are simulated: the "
        "scores test the code and say nothing about real cities."
    )
    report = Section(f"Indicators predicted from region embeddings{mark}", blocks)
    write_report_files(report, banner if simulated else "", output)
    return output / "report.md"


def _city_section(city: CityResults, echo: Callable[[str], None]) -> Section:
    errors = {
        protocol: validation_errors(city.folder, protocol, group_names(city.summary["systems"]))
        for protocol in city.protocols
    }
    of_images = {
        protocol: {key: error for key, error in own.items() if not city.is_place(key[0][0])}
        for protocol, own in errors.items()
    }
    best = best_views(
        {(name, f"{one} {i}"): e for one, own in errors.items() for (name, i), e in own.items()}
    )

    def wanted(protocol: str, indicator: str, name: Name) -> bool:
        chosen = best_of_indicator(of_images[protocol], indicator)
        return is_control(name) or name in (chosen, *best)

    compared = [one for own in compare_all(city.folder, city.references()) for one in own]
    write_json(city.folder / DIFFERENCES_FILE, [asdict(one) for one in compared])
    cells = list(drawn_cells(city.folder, wanted=wanted))
    coverage = coverage_frame(city, measure_coverage(city.folder))
    variants = variants_frame(city, variant_differences(city.folder))
    blocks = summary_blocks(city, cells, of_images, best)
    for protocol in city.protocols:
        views = {key_of(name) for name in best_views(errors[protocol])}
        shown = [
            seeds_note(city, city.of(protocol), protocol),
            score_table(city, protocol, "r2", views=views),
            *_prediction_figures(city, protocol),
            *_folded_tables(city, protocol, differences_frame(compared), coverage),
        ]
        if not any(cell.protocol == protocol for cell in cells):
            shown.insert(1, ONE_BLOCK)
        own = variants[variants["protocol"] == protocol]
        shown += [variants_section(city, protocol, own)] if len(own) else []
        blocks.append(Section(f"{city.title}: {PROTOCOL_TITLES[protocol]}", shown))
        echo(f"\n{city.title}: {PROTOCOL_TITLES[protocol]}, R²\n")
        echo(score_table(city, protocol, "r2").markdown())
    blocks += [*reach_sections(city, of_images.get("block", {})), *cluster_sections(city)]
    if language := [table for table in (retrieval_table(city), zero_shot_table(city)) if table]:
        blocks.append(Section(f"{city.title}: retrieval and zero-shot scores", language))
    unknown = "Distances between test and training regions: unknown, the dataset was not found."
    about: list[Block] = [
        f"Dataset: `{city.summary['dataset_name']}`.",
        limits(city),
        distance_table(city) or unknown,
        systems_table(city),
    ]
    return Section(city.title, [*blocks, Section(f"{city.title}: data and limitations", about)])


def _folded_tables(
    city: CityResults, protocol: str, differences: pd.DataFrame, coverage: pd.DataFrame
) -> list[Block]:
    scores = [score_table(city, protocol, metric) for metric in METRICS]
    to_references = []
    for one in city.references():
        own = differences[differences["reference"] == one.system]
        own = own if one.probe is None else own[own["reference_probe"] == one.probe]
        to_references.append(difference_table(city, protocol, one.system, own))
    if (city.frame["beside"] != "").any():
        to_references.append(score_table(city, protocol, "r2", beside=True))
    parts = {
        "all views, probes and metrics": [*scores, spread_table(city, protocol)],
        "differences from the controls, with confidence intervals": to_references,
        "coverage of prediction intervals": [coverage_table(city, protocol, coverage)],
    }
    known = {title: [table for table in own if table] for title, own in parts.items()}
    where = f"{city.title}, {PROTOCOLS[protocol]}"
    return [Section(f"{where}: {title}", own, folded=True) for title, own in known.items() if own]


def _prediction_figures(city: CityResults, protocol: str) -> list[Block]:
    """Scatter plot and maps of the best trained system; empty without image systems."""
    rows = city.of(protocol)
    key = best_key(city, rows)
    if key is None:
        return []
    system, _, view, probe = key
    label = city.members[system][0]
    predictions = predictions_of(city, protocol, key)
    title = f"{city.title}, {PROTOCOLS[protocol]}: {what(city, key)}"
    own = (rows[["label", "beside", "view", "probe"]] == [label, "", view, probe]).all(axis=1)
    scores: dict[Any, pd.Series] = dict(list(run_scores(rows[own], "r2").groupby("indicator")))
    trainings = len(city.members[system])
    one_of = f" Predictions of the first of {trainings} training seeds." if trainings > 1 else ""
    indicators = city.summary["indicators"]
    scatter, maps = (
        f"{FIGURES_FOLDER}/{slug(city.name, protocol)}-{kind}.png" for kind in ("scatter", "map")
    )
    draw_scatter(city.output / scatter, title, predictions, scores, indicators)
    blocks: list[Block] = [
        Figure(
            scatter,
            f"{title}: prediction against truth",
            f"Test predictions of {what(city, key)} over all splits, for the view and probe with "
            "the highest mean R². Values are in raw units; axes are logarithmic where indicators "
            f"are scored as ln(y + 1).{one_of}",
        )
    ]
    if draw_maps(city.output / maps, title, city.folder / REGIONS_FILE, predictions, indicators):
        figure = Figure(
            maps,
            f"{title}: maps of truth, prediction and residual",
            "Prediction: mean over the splits in which a region is in the test set. Residual: "
            "prediction minus truth; for ln(y + 1), the factor (prediction + 1) / (truth + 1). "
            "Grey: never in a test set, or no label.",
        )
        blocks.append(Section(f"{title}: maps", [figure], folded=True))
    else:
        blocks.append("No map: the dataset has no region geometries.")
    return blocks


__all__ = ["write_report"]
