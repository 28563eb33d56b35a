"""Results to a page: tables with controls, pictures, and what must be known to read them.

<output>/report.md, report.html    the same page twice
<output>/tables/*.tex, *.csv       every table of it; CSV unrounded
<output>/figures/*.png
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ..analysis.bootstrap import Reference
from ..analysis.clusters import cluster_blocks
from ..analysis.conformal import Coverage, measure_coverage
from ..errors import InputError
from ..probe.systems import WITH_COORDINATES
from .differences import cached_differences, references
from .documents import (
    Block,
    Bullets,
    Folded,
    Heading,
    Text,
    write_html,
    write_markdown,
    write_tables,
)
from .efficiency import efficiency_blocks
from .figures import prediction_figures
from .frame import PROTOCOL_TITLES, CityResults, read_cities
from .limits import distance_table, limits, seeds_note
from .paper import Publication, paper_tables
from .table_formats import to_markdown
from .tables import (
    coverage_table,
    difference_table,
    gain_table,
    score_table,
    spread_table,
    statistics_table,
    systems_table,
)
from .transfer import read_transfer, transfer_blocks
from .variants import method_references, studies, variant_blocks
from .verdict_table import Errors, best_views, validation_errors, verdict_table

REPORT_FILE, PAGE_FILE = "report.md", "report.html"
TABLES_FOLDER, FIGURES_FOLDER = "tables", "figures"
# beside the results, where the benchmark lays them
EMBEDDINGS_FOLDER, TRANSFER_FOLDER = "embeddings", "transfer/results"
COORDINATES_BY_RIDGE = Reference("coordinates", "none", "ridge")
READING = Text(
    "How to read the tables: a light probe predicts each indicator from frozen region vectors. "
    "Scores are means ± SD over splits, and over training seeds where there are several; bold is "
    "the best of a column, controls included. Counts, densities and intensities are scored on the "
    "scale ln(y + 1). All systems share regions, labels and splits; hyper-parameters are chosen on "
    "validation regions from one grid. The controls are the mean label, coordinates alone (k-NN, "
    "trees, ridge), counts of points of interest, colour and texture, and untrained weights: a "
    "system that does not beat them has learned nothing useful."
)


def write_report(output: Path, echo: Callable[[str], None] = print) -> Path:
    """Write the report of all cities in a folder.

    Args:
        output: the folder that `probe` was given.
        echo: takes the tables of R2.

    Returns:
        The path of report.md.

    Raises:
        InputError: there are no results, or rows of models without their controls.
    """
    cities = read_cities(output)
    if not cities:
        raise InputError(f"No results in {output}. Run `python evaluate.py probe` first.")
    paper = paper_tables()
    errors = {
        city.name: {protocol: validation_errors(city, protocol) for protocol in city.protocols}
        for city in cities
    }
    verdicts = verdict_table(cities, errors)
    blocks = [*_title(cities), *([verdicts] if verdicts else []), READING]
    blocks.append(Folded("Datasets", (statistics_table(cities, paper),)))
    for city in cities:
        blocks += _city_section(city, output, paper, errors[city.name])
        for protocol in city.protocols:
            echo(f"\n{city.title}: {PROTOCOL_TITLES[protocol]}, R²\n")
            echo(to_markdown(score_table(city, protocol, "r2")))
    transfer = read_transfer(output.parent / TRANSFER_FOLDER)
    if transfer:
        blocks += transfer_blocks(transfer, output, FIGURES_FOLDER)
    blocks += efficiency_blocks(output.parent, output, FIGURES_FOLDER)
    blocks += _recompute_section()
    write_tables(output / TABLES_FOLDER, blocks)
    title = next(block.text for block in blocks if isinstance(block, Heading))
    write_html(output / PAGE_FILE, title, blocks)
    write_markdown(output / REPORT_FILE, blocks)
    return output / REPORT_FILE


def _title(cities: Sequence[CityResults]) -> list[Block]:
    simulated = [city.title for city in cities if city.synthetic]
    mark = " (synthetic)" if simulated else ""
    blocks: list[Block] = [Heading(1, f"Indicators predicted from region vectors{mark}")]
    if simulated:
        blocks.append(
            Text(
                f"**{', '.join(simulated)}: synthetic data.** Images, captions and indicators are "
                "simulated: these scores say whether the code works, not how real cities look.",
                banner=True,
            )
        )
    return blocks


def _city_section(
    city: CityResults, output: Path, paper: Publication, errors: Mapping[str, Errors]
) -> list[Block]:
    blocks: list[Block] = [
        Heading(2, city.title),
        Text(f"Dataset: `{city.summary['dataset_name']}`."),
        Folded("Systems", (systems_table(city),)),
    ]
    measured = measure_coverage(city.folder)
    for protocol in city.protocols:
        blocks += _protocol_section(city, protocol, measured, output, paper, errors[protocol])
    embeddings = output.parent / EMBEDDINGS_FOLDER / city.name
    blocks += cluster_blocks(city, embeddings, output, FIGURES_FOLDER)
    blocks.append(Heading(3, f"{city.title}: limits"))
    blocks.append(Bullets(tuple(limits(city))))
    distances = distance_table(city)
    if distances:
        blocks.append(distances)
    else:
        blocks.append(
            Text("How far test is from training is not known: the dataset's folder is not at hand.")
        )
    return blocks


def _protocol_section(
    city: CityResults,
    protocol: str,
    measured: Sequence[Coverage],
    output: Path,
    paper: Publication,
    errors: Errors,
) -> list[Block]:
    blocks: list[Block] = [
        Heading(3, f"{city.title}: {PROTOCOL_TITLES[protocol]}"),
        Text(seeds_note(city, city.of(protocol), protocol)),
        score_table(city, protocol, "r2", paper, views=best_views(errors)),
    ]
    others = [score_table(city, protocol, m, paper) for m in ("r2", "rmse", "mae", "spearman")]
    spread = spread_table(city, protocol)
    others += [spread] if spread else []
    blocks.append(Folded("All views and probes; RMSE, MAE and rank correlation", tuple(others)))
    wanted = [*references(city), *_gain_reference(city), *method_references(city)]
    compared = cached_differences(city, list(dict.fromkeys(wanted)))
    differences = [
        difference_table(city, protocol, reference.system, compared[reference])
        for reference in references(city)
    ]
    differences.append(gain_table(city, protocol, compared.get(COORDINATES_BY_RIDGE, ())))
    told = tuple(table for table in differences if table)
    if _gain_reference(city):
        told += (score_table(city, protocol, "r2", beside=True),)
    if told:
        blocks.append(Folded("Differences to the controls, with intervals", told))
    intervals = coverage_table(city, protocol, measured)
    blocks += [Folded("Prediction intervals and their coverage", (intervals,))] if intervals else []
    blocks += prediction_figures(city, protocol, output, FIGURES_FOLDER)
    for study in studies(city, protocol, compared):
        blocks += variant_blocks(study, output, FIGURES_FOLDER, paper)
    return blocks


def _gain_reference(city: CityResults) -> list[Reference]:
    beside = any(row.system.startswith(WITH_COORDINATES) for row in city.rows)
    return [COORDINATES_BY_RIDGE] if beside else []


def _recompute_section() -> list[Block]:
    return [
        Heading(2, "To compute it again"),
        Bullets(
            (
                "`CITY/results.jsonl` holds a row a system, view, probe, indicator, protocol, "
                "split seed and probe seed. Rows of one `table_hash`, that of `CITY/probe.json`, "
                "compare.",
                "A cell of a table: take the rows of its system, view, probe, indicator and "
                "protocol, of all trainings that `CITY/probe.json` counts to its group; average "
                "the score over probe seeds within each split seed and training; the mean and the "
                "standard deviation (n - 1) over splits and trainings are what is shown. "
                "`tables/*-spread.csv` holds the two spreads apart.",
                "R² = 1 - Σ(y - p)² / Σ(y - ȳ)², ȳ of the test regions; RMSE = √mean (y - p)²; "
                "MAE = mean |y - p|; label SD = √mean (y - ȳ)². `CITY/predictions/*.parquet` holds "
                "y and p of every row.",
                "A difference: R² of the one, mean over its trainings, less R² of the other within "
                "each split, then the mean; its interval is the 2.5 and 97.5 percentile of 2,000 "
                "draws of the blocks named `block_id` in `CITY/regions.parquet`, with replacement, "
                "the same draw for both systems and all splits.",
                "`tables/*.csv` holds the figures unrounded.",
            )
        ),
    ]


__all__ = ["write_report"]
