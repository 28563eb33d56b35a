"""The report of a run: tables in Markdown, the same numbers as JSON, failures as CSV, a gallery."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from dataset_builders.files import atomic_path, write_json
from pipelines.common.csv_files import write_csv
from pipelines.common.pages import page_environment

from .gallery import ReadImages, write_gallery
from .inputs import read_shard
from .recipe import Recipe
from .records import SourceImage
from .shards import finished_shards
from .summary import CountTokens, Findings, examine

REPORT_FOLDER = "report"
REPORT_FILE, JSON_FILE, GALLERY_FILE = "report.md", "report.json", "gallery.html"
FAILURES_FILE = "without_caption.csv"
DASH = "–"
# an underscore within a word is no markup
MARKUP = re.compile(r"[\\`*\[\]<>|#&!~]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
TABLE = re.compile(r"^\|.*\n\|(?: ?-).*\n(?:\|.*\n)*", re.MULTILINE)


def report_run(recipe: Recipe) -> Path:
    """Write the report of the finished shards of a run.

    Returns:
        The path of report.md.
    """
    finished = finished_shards(recipe)

    def images(wanted: frozenset[str]) -> Iterator[SourceImage]:
        for folder in finished:
            for row in read_shard(recipe, folder.shard):
                if isinstance(row, SourceImage) and row.image_id in wanted:
                    yield row

    return write_report(
        Path(recipe.output_dir) / REPORT_FOLDER,
        [folder.candidates for folder in finished],
        [folder.rejects for folder in finished],
        images,
        gallery_size=recipe.run.gallery_size,
        seed=recipe.seed,
        synthetic=recipe.synthetic,
        title=f"Captions of {Path(recipe.dataset_name).name}",
    )


def write_report(
    output_dir: Path,
    parts: Sequence[Path],
    rejects: Sequence[Path] = (),
    images: ReadImages | None = None,
    count_tokens: CountTokens | None = None,
    gallery_size: int = 50,
    seed: int = 0,
    synthetic: bool = False,
    title: str = "Captions",
    currency: str = "",
) -> Path:
    """Write report.md, report.json, without_caption.csv and gallery.html.

    Args:
        output_dir: Folder of the report; made if need be.
        parts: Tables of candidates; the rows of an image are adjacent.
        rejects: Tables of rejects.
        images: Yields the images of given ids; without it the gallery has no images.
        count_tokens: Number of tokens of a text; CLIP's, start and end included, by default.
        gallery_size: Images in the gallery; 0 writes none.
        seed: Seed of the random part of the gallery.
        synthetic: Whether images or models are simulated; stated in titles, tables and gallery.
        title: Title of the report.
        currency: Currency of the costs.

    Returns:
        The path of report.md.
    """
    if synthetic and "synthetic" not in title.lower():
        title = f"{title} (synthetic)"
    found = examine(parts, rejects, count_tokens, synthetic, gallery_size, seed)
    if gallery_size:
        write_gallery(output_dir / GALLERY_FILE, parts, found, images, title)
    write_json(output_dir / JSON_FILE, {"title": title, **found.summary})
    failures = pd.DataFrame(found.failures.items(), columns=["image_id", "reasons"])
    write_csv(output_dir / FAILURES_FILE, failures)
    path = output_dir / REPORT_FILE
    with atomic_path(path) as temporary:
        # a lone surrogate, which no file can hold, is shown as what it is
        text = markdown(found, title, gallery=bool(gallery_size), currency=currency)
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
    return path


def markdown(found: Findings, title: str, gallery: bool = True, currency: str = "") -> str:
    """The text of report.md."""
    environment = page_environment(__package__)
    environment.filters |= {
        "cell": _cell,
        "spread": lambda spread: _number(spread["mean"], ".3f", f" ± {spread['sd'] or 0:.3f}"),
        "number": _number,
        "of": lambda part, whole: f"{part:,} ({part / whole:.1%})" if whole else f"{part:,}",
    }
    text = environment.get_template("report.md.j2").render(
        **found.summary,
        title=title,
        gallery=GALLERY_FILE if gallery else "",
        failures_file=FAILURES_FILE,
        currency=currency,
    )
    return TABLE.sub(lambda match: _aligned(match[0]), text)


def _number(value: float | None, form: str = ",", after: str = "") -> str:
    return DASH if value is None else f"{value:{form}}{after}"


def _cell(text: Any) -> str:
    """Text from outside, as text: it can neither end the cell nor be read as markup."""
    return MARKUP.sub(lambda match: f"&#{ord(match[0])};", " ".join(str(text).split()))


def _aligned(table: str) -> str:
    """A Markdown table whose columns are aligned in plain text too; numbers to the right."""
    rows = [line.strip("|").split("|") for line in table.splitlines()]
    cells = [[cell.strip() for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    right = [rule.endswith(":") for rule in cells[1]]
    cells[1] = ["-" * (width - one) + ":" * one for width, one in zip(widths, right, strict=True)]
    lines = [
        " | ".join(
            cell.rjust(width) if one else cell.ljust(width)
            for cell, width, one in zip(row, widths, right, strict=True)
        )
        for row in cells
    ]
    return "".join(f"| {line} |\n" for line in lines)


__all__ = ["markdown", "report_run", "write_report"]
