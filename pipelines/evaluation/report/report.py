"""Report of evaluation results: tables with controls, figures and caveats.

<output>/report.html, report.md    the report in two formats
<output>/tables/*.csv              all tables, unrounded
<output>/figures/*.png
<output>/CITY/differences.json     differences from the references, with intervals
<output>/CITY/added.csv            R2 added to location and to other tables, with intervals
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from dataset_builders.files import write_json

from ..analysis.bootstrap import (
    DIFFERENCES_FILE,
    DrawnCell,
    Interval,
    Name,
    Reference,
    compare_all,
    drawn_cells,
    group_names,
)
from ..analysis.claims import variant_differences
from ..analysis.clusters import cluster_trainings, find_tables
from ..analysis.conformal import Coverage, measure_coverage
from ..analysis.verdicts import (
    Errors,
    Overall,
    best_of_indicator,
    best_views,
    is_control,
    mean_difference,
    overall,
    score,
    validation_errors,
    verdicts,
)
from ..errors import InputError
from ..probe.predictions import REGIONS_FILE
from ..probe.splits import PROTOCOLS
from ..urban_regression.metrics import METRICS
from .added import added_tables
from .figures import BLUE, CUT, GREY, draw_clusters, draw_intervals, draw_maps, draw_scatter
from .frame import (
    METHOD,
    PROTOCOL_TITLES,
    TRAINED,
    VIEW_NAMES,
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
from .other_results import (
    TRANSFER_FOLDER,
    efficiency_section,
    read_transfer,
    retrieval_table,
    transfer_section,
    zero_shot_table,
)
from .reach import reach_sections
from .rendering import Block, Bullets, Figure, Section, write_report_files
from .tables import (
    QUESTIONS,
    cluster_table,
    coverage_table,
    difference_table,
    differences_frame,
    overall_table,
    score_table,
    spread_table,
    verdict_table,
)
from .variants import Study, studies, variants_section

FIGURES_FOLDER = "figures"
EMBEDDINGS_FOLDER = "embeddings"  # sibling of the results folder
SHOWN = "population"  # indicator in the figure of clusters, if available
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


@dataclass(frozen=True)
class Analysis:
    """Statistics of a city shared by several sections.

    Attributes:
        errors: Protocol to validation errors of all systems.
        of_images: `errors` without location encoders.
        cells: Bootstrap scores of the controls and of each system in its best view.
        best: Image systems in their best view, by increasing validation error.
        differences: Differences of R2 from the references, see [`tables.differences_frame`].
        coverage: Coverage of prediction intervals.
        variants: Protocol to the variants of the method.
    """

    errors: Mapping[str, Errors]
    of_images: Mapping[str, Errors]
    cells: Sequence[DrawnCell]
    best: Sequence[Name]
    differences: pd.DataFrame
    coverage: Sequence[Coverage]
    variants: Mapping[str, Study]


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
    blocks: list[Block] = [_city_section(city, output, echo) for city in cities]
    transfer = read_transfer(output.parent / TRANSFER_FOLDER)
    if transfer is not None:
        blocks.append(transfer_section(transfer, output, FIGURES_FOLDER))
    efficiency = efficiency_section(output.parent, output, FIGURES_FOLDER)
    blocks += [efficiency] if efficiency else []
    datasets = Section("Datasets", [statistics_table(cities)])
    blocks += [datasets, Section("How to recompute a number", [READING, Bullets(RECOMPUTE)])]
    simulated = ", ".join(city.title for city in cities if city.synthetic)
    mark = " (synthetic)" if simulated else ""
    banner = (
        f"**{simulated}: synthetic data.** Images, captions and indicators are simulated: the "
        "scores test the code and say nothing about real cities."
    )
    report = Section(f"Indicators predicted from region embeddings{mark}", blocks)
    write_report_files(report, banner if simulated else "", output)
    return output / "report.md"


def _analyse(city: CityResults) -> Analysis:
    group_of = group_names(city.summary["systems"])
    errors = {one: validation_errors(city.folder, one, group_of) for one in city.protocols}
    of_images = {
        one: {key: error for key, error in own.items() if not city.is_place(key[0][0])}
        for one, own in errors.items()
    }
    best = best_views(
        {(name, f"{one} {i}"): e for one, own in errors.items() for (name, i), e in own.items()}
    )

    def wanted(protocol: str, indicator: str, name: Name) -> bool:
        chosen = best_of_indicator(of_images[protocol], indicator)
        return is_control(name) or name in (chosen, *best)

    found = [one for own in compare_all(city.folder, city.references()) for one in own]
    write_json(city.folder / DIFFERENCES_FILE, [asdict(one) for one in found])
    cells = list(drawn_cells(city.folder, wanted=wanted))
    coverage = measure_coverage(city.folder)
    variants = studies(city, variant_differences(city.folder))
    return Analysis(errors, of_images, cells, best, differences_frame(found), coverage, variants)


# ---- a city -------------------------------------------------------------------------------------


def _city_section(city: CityResults, output: Path, echo: Callable[[str], None]) -> Section:
    analysis = _analyse(city)
    sections = []
    for protocol in city.protocols:
        sections.append(_protocol_section(city, protocol, analysis, output))
        echo(f"\n{city.title}: {PROTOCOL_TITLES[protocol]}, R²\n")
        echo(score_table(city, protocol, "r2").markdown())
    errors = analysis.of_images.get("block", {})
    more: list[Block] = [*reach_sections(city, errors, output, FIGURES_FOLDER)]
    more += _cluster_sections(city, output)
    found = retrieval_table(output, city), zero_shot_table(output, city)
    if any(found):
        title = f"{city.title}: retrieval and zero-shot scores"
        more.append(Section(title, [table for table in found if table]))
    distances = distance_table(city)
    unknown = "Distances between test and training regions: unknown, the dataset was not found."
    about: list[Block] = [
        f"Dataset: `{city.summary['dataset_name']}`.",
        Bullets(limits(city)),
        distances or unknown,
        systems_table(city),
    ]
    blocks: list[Block] = [*_summary_blocks(city, analysis, output), *sections, *more]
    return Section(city.title, [*blocks, Section(f"{city.title}: data and limitations", about)])


def _summary_blocks(city: CityResults, analysis: Analysis, output: Path) -> list[Block]:
    """Summary sentences, added value, comparison with the controls, and verdicts."""
    names = dict.fromkeys(name for cell in analysis.cells for name in cell.systems)
    shown = [n for n in names if is_control(n) or n in analysis.best]
    found = overall(analysis.cells, shown)
    labels = pd.read_parquet(city.folder / REGIONS_FILE)
    labelled = {name: int(labels[name].notna().sum()) for name in city.indicators}
    answers = sorted(
        verdicts(analysis.cells, analysis.of_images, labelled),
        key=lambda one: (one.protocol != "block", city.indicators.index(one.indicator)),
    )
    blocks: list[Block] = [*_sentences(city, analysis, found), *added_tables(city)]
    if found:
        blocks += [overall_table(city, found), _overall_figure(city, found, output)]
    if answers:
        blocks.append(verdict_table(city, answers))
    return blocks


def _sentences(city: CityResults, analysis: Analysis, found: Sequence[Overall]) -> Sequence[str]:
    """Comparison of the trained system with location and the best control, per protocol."""
    ranks = {name: city.rank(key_of(name)[0]) for name in analysis.best}
    candidates = [name for name in analysis.best if ranks[name] == METHOD]
    candidates += [name for name in analysis.best if ranks[name] == TRAINED]
    if not candidates:
        return ["**No trained system is among the results: all rows are controls.**"]
    texts = []
    for protocol, question in QUESTIONS.items():
        own = {one.name: one for one in found if one.protocol == protocol}
        system = own.get(candidates[0])
        controls = [
            one for name, one in own.items()
            if name not in candidates and city.rank(*key_of(name)[:2]) < TRAINED
        ]  # fmt: skip
        if system is None or not controls:
            continue
        best = max(controls, key=lambda one: one.r2.estimate)
        mean = score(system.r2)
        reached = (
            "has no estimable mean R²" if mean.r2 is None else f"reaches a mean R² of {mean.text}"
        )
        text = (
            f"**{question.capitalize()}**: {what(city, key_of(system.name))}, {reached} over "
            f"{system.indicators} indicators"
        )
        if system.gain:
            text += f", {_compared(system.gain, 'location alone')}"
        gap = mean_difference(analysis.cells, protocol, system.name, best.name)
        if gap:
            text += f", and {_compared(gap, f'the best control, {what(city, key_of(best.name))}')}"
        texts.append(text + ".")
    return texts


def _compared(gap: Interval, other: str) -> str:
    said = "not significantly different from"
    if gap.excludes_zero:
        said = "better than" if gap.estimate > 0 else "worse than"
    return f"{said} {other} ({gap.estimate:+.2f} [{gap.low:+.2f}, {gap.high:+.2f}])"


def _overall_figure(city: CityResults, found: Sequence[Overall], output: Path) -> Figure:
    ordered = sorted(found, key=lambda one: city.order(key_of(one.name)))
    panels = {}
    for protocol, question in QUESTIONS.items():
        own = [one for one in ordered if one.protocol == protocol]
        if own:
            keys = [key_of(one.name) for one in own]
            panels[question] = pd.DataFrame(
                {
                    "name": [what(city, key).replace(", –", "") for key in keys],
                    **{e: [getattr(one.r2, e) for one in own] for e in ("estimate", "low", "high")},
                    "colour": [BLUE if city.rank(*k[:2]) >= TRAINED else GREY for k in keys],
                    "seeds": [[] for _ in own],
                }
            )
    path = f"{FIGURES_FOLDER}/{slug(city.name, 'overall')}.png"
    title = f"Systems and controls, {city.title}"
    draw_intervals(output / path, title, panels, "R², mean over indicators", cut=CUT)
    caption = (
        f"{title}. Lines: 95 % confidence intervals (bootstrap over districts), cut at {CUT:g}. "
        "Grey: controls."
    )
    return Figure(path, title, caption)


# ---- a protocol ---------------------------------------------------------------------------------


def _protocol_section(
    city: CityResults, protocol: str, analysis: Analysis, output: Path
) -> Section:
    own = analysis.differences
    where = f"{city.title}, {PROTOCOLS[protocol]}"
    views = {key_of(name) for name in best_views(analysis.errors[protocol])}
    blocks: list[Block] = [
        seeds_note(city, city.of(protocol), protocol),
        score_table(city, protocol, "r2", views=views),
        *_prediction_figures(city, protocol, output),
    ]
    scores = [score_table(city, protocol, metric) for metric in METRICS]
    everything = [*scores, spread_table(city, protocol)]
    differences = [
        difference_table(city, protocol, one.system, _to(own, one)) for one in city.references()
    ]
    if (city.frame["beside"] != "").any():
        differences.append(score_table(city, protocol, "r2", beside=True))
    for title, tables in (
        ("all views, probes and metrics", everything),
        ("differences from the controls, with confidence intervals", differences),
        ("coverage of prediction intervals", [coverage_table(city, protocol, analysis.coverage)]),
    ):
        known = [table for table in tables if table]
        blocks += [Section(f"{where}: {title}", known, folded=True)] if known else []
    if study := analysis.variants.get(protocol):
        blocks.append(variants_section(study, output, FIGURES_FOLDER))
    return Section(f"{city.title}: {PROTOCOL_TITLES[protocol]}", blocks)


def _to(differences: pd.DataFrame, reference: Reference) -> pd.DataFrame:
    own = differences[differences["reference"] == reference.system]
    return own if reference.probe is None else own[own["reference_probe"] == reference.probe]


def _prediction_figures(city: CityResults, protocol: str, output: Path) -> list[Block]:
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
    draw_scatter(output / scatter, title, predictions, scores, indicators)
    blocks: list[Block] = [
        Figure(
            scatter,
            f"{title}: prediction against truth",
            f"Test predictions of {what(city, key)} over all splits, for the view and probe with "
            "the highest mean R². Values are in raw units; axes are logarithmic where indicators "
            f"are scored as ln(y + 1).{one_of}",
        )
    ]
    if draw_maps(output / maps, title, city.folder / REGIONS_FILE, predictions, indicators):
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


# ---- clusters -----------------------------------------------------------------------------------


def _cluster_sections(city: CityResults, output: Path) -> list[Section]:
    """Figure and table of a city's clusters; empty without image systems."""
    key = best_key(city, city.frame)
    if key is None:
        return []
    system, _, view, _ = key
    title = f"{city.title}: clusters of {system}, {VIEW_NAMES[view]}"
    folder = output.parent / EMBEDDINGS_FOLDER / city.name
    tables = find_tables(folder, city.members[system], city.summary["systems"])
    if not tables:
        missing = f"Not drawn: the evaluated embeddings are not in `{folder.name}`."
        return [Section(title, [missing])]
    regions = pd.read_parquet(city.folder / REGIONS_FILE)
    try:
        kept, found = cluster_trainings(tables, view, regions["region_id"].tolist())
    except InputError as error:
        return [Section(title, [f"Not drawn: {error}"])]
    regions = regions[regions["region_id"].isin(kept)]
    indicator = SHOWN if SHOWN in city.indicators else city.indicators[0]
    about = city.summary["indicators"][indicator]
    named = indicator, about["unit"], about["transform"]
    path = f"{FIGURES_FOLDER}/{slug(city.name, 'clusters')}.png"
    regions_path = city.folder / REGIONS_FILE
    draw_clusters(output / path, title, found[0], regions, named, regions_path)
    figure = Figure(
        path,
        title,
        f"Left: first two principal components of the embeddings. Middle: density of {indicator} "
        "per cluster. Right: map. Clusters are lettered by size; no labels are used.",
    )
    return [Section(title, [figure, cluster_table(city, title, found, regions)])]


__all__ = ["write_report"]
