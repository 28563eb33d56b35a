"""The card of a dataset (README.md), written from what lies in its folder."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import yaml

from .files import WrittenFiles
from .schema import TABLES, VIEWS, DatasetMetadata, config_name
from .storage import (
    CARD_FILE,
    FILES_KIND,
    REJECTS_FILE,
    count_rows,
    list_tables,
    read_metadata,
    read_regions,
    read_rejects,
    read_table,
    table_shards,
)

# of the examples, until the dataset has an id on the Hub
PLACEHOLDER = 'name = "path/to/this/folder"  # or the id of this repository'
# what the Hub takes as `license:`; anything else goes under `license_name:`
HUB_LICENCES = {
    "apache-2.0", "mit", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0",
    "cc-by-nc-sa-4.0", "odbl", "odc-by", "unknown",
}  # fmt: skip
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def write_card(root: str | Path, kind: str = FILES_KIND) -> Path:
    """Write README.md: YAML configs for `load_dataset`, licence, statistics, how to load.

    A simulated dataset is called synthetic in its name, its tags and its first line.

    Args:
        root: a finished dataset folder.
        kind: of the folder's [`WrittenFiles`].

    Returns:
        The path of the card.

    Raises:
        DatasetError: the folder holds no dataset, or its build did not end.
        ForeignFileError: there is a README.md that was not written so, or was edited.
    """
    root = Path(root)
    tables = sorted(list_tables(root), key=lambda pair: (pair[0], TABLES.index(pair[1])))
    cities = list(dict.fromkeys(city for city, _ in tables))
    metadata = read_metadata(root, cities[0])
    sections = [
        f"# {_title(metadata)}",
        _introduction(metadata),
        _load_section(root, tables),
        _table_section(root, tables),
        _sources_section(root, tables),
        *[
            _city_section(root, city, dict.fromkeys(t for c, t in tables if c == city))
            for city in cities
        ],
        _figures_section(root),
        _notes_section(metadata),
        _provenance_section(root, metadata),
    ]
    header = yaml.safe_dump(
        _header(root, metadata, tables), sort_keys=False, allow_unicode=True, width=100
    )
    text = f"---\n{header}---\n\n" + "\n\n".join(part for part in sections if part) + "\n"
    with WrittenFiles(root, kind).writing(CARD_FILE) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return root / CARD_FILE


def _title(metadata: DatasetMetadata) -> str:
    if metadata.synthetic and "synthetic" not in metadata.title.lower():
        return f"{metadata.title} (synthetic)"
    return metadata.title


def _header(root: Path, metadata: DatasetMetadata, tables: list[tuple[str, str]]) -> dict[str, Any]:
    licence = metadata.licence.strip().lower()
    header: dict[str, Any] = {"pretty_name": _title(metadata)}
    if licence in HUB_LICENCES:
        header["license"] = licence
    else:
        header |= {"license": "other", "license_name": metadata.licence or "not stated"}
    images = sum(count_rows(root, *pair) for pair in tables if pair[1] in VIEWS)
    header["size_categories"] = [next((name for top, name in SIZES if images < top), "1M<n<10M")]
    header["task_categories"] = ["image-feature-extraction", "zero-shot-image-classification"]
    header["tags"] = ["urban", "geospatial", "urbanln", *["synthetic"] * metadata.synthetic]
    header["configs"] = [
        {
            "config_name": config_name(*pair),
            "data_files": [{"split": "train", "path": f"data/{config_name(*pair)}/part-*.parquet"}],
        }
        for pair in tables
    ]
    return header


def _introduction(metadata: DatasetMetadata) -> str:
    if not metadata.synthetic:
        return metadata.description
    warning = "> **Synthetic.** Everything here is simulated; nothing was observed in a real city."
    return f"{warning}\n\n{metadata.description}"


def _load_section(root: Path, tables: list[tuple[str, str]]) -> str:
    city, view = next((pair for pair in tables if pair[1] in VIEWS), tables[0])
    shown = 'print(images[0]["image"].size, images[0]["caption"])'
    if view in VIEWS and _withheld(root, [(city, view)]):
        shown = 'print(images[0]["image_id"], images[0]["image"])  # None where only the id is here'
    return f"""## Load

```python
from datasets import load_dataset

{PLACEHOLDER}
images = load_dataset(name, "{city}-{view}", split="train")  # streaming=True to download nothing
regions = load_dataset(name, "{city}-regions", split="train")  # targets, geometry (WKB), splits
{shown}
```

Every table has one split of the library, "train"; the splits of regions are the columns
`split_random` and `split_block`. `geopandas.read_parquet` reads the shards of a regions table."""


def _withheld(root: Path, tables: list[tuple[str, str]]) -> int:
    """Pictures of which only the id is here."""
    return sum(int((~_redistributable(root, *pair)).sum()) for pair in tables if pair[1] in VIEWS)


def _redistributable(root: Path, city: str, view: str) -> pd.Series:
    """Of each row whether its picture may be passed on.

    Where the table does not say, the licence gate has left all out, and nobody else asks.
    """
    if "redistributable" not in pq.read_schema(table_shards(root, city, view)[0]).names:
        silent = not (root / "published.json").exists()
        return pd.Series(silent, index=range(count_rows(root, city, view)))
    return read_table(root, city, view, ["redistributable"])["redistributable"].eq(True)


def _sources_section(root: Path, tables: list[tuple[str, str]]) -> str:
    """Who made the pictures, under what licence, and which are not here."""
    lines, ids_only = [], 0
    for city, view in tables:
        if view not in VIEWS:
            continue
        columns = ["source", "licence"]
        credited = "attribution" in pq.read_schema(table_shards(root, city, view)[0]).names
        if not credited and not (root / "published.json").exists():
            continue
        rows = read_table(root, city, view, [*columns, *["attribution"] * credited])
        rows = rows.reindex(columns=[*columns, "attribution"]).fillna("")
        rows["shared"] = _redistributable(root, city, view).to_numpy()
        for (source, licence), group in rows.groupby(columns, sort=True):
            named = sorted(set(group["attribution"]) - {""})
            credit = "; ".join(named[:3]) + (" and others" if len(named) > 3 else "")
            missing = int((~group["shared"]).sum())
            ids_only += missing
            lines.append(
                f"| `{config_name(city, view)}` | {source} | {licence or 'not stated'} | {credit} "
                f"| {len(group):,} | {missing:,} |"
            )
    if not lines:
        return ""
    head = [
        "## Pictures and their licences",
        "",
        "| config | source | licence | attribution | pictures | of which not to be passed on |",
        "|---|---|---|---|--:|--:|",
    ]
    said = []
    if ids_only and (root / "published.json").exists():
        said = [
            "",
            f"**{ids_only:,} pictures are not in this dataset.** Their sources do not allow it, or "
            "do not say that they do: the rows hold all else, and `image` is null.",
        ]
    if said and (root / "recipe.yaml").exists():
        said += [
            "",
            "Fetch them with your own key:",
            "",
            "```",
            "python -m dataset_builders rehydrate path/to/this/folder --output_dir NEW_FOLDER",
            "```",
        ]
    return "\n".join([*head, *lines, *said])


def _figures_section(root: Path) -> str:
    names = sorted(path.name for path in (root / "figures").glob("*.png"))
    if not names:
        return ""
    return "## Pictures\n\n" + "\n".join(
        f"![{name.removesuffix('.png')}](figures/{name})" for name in names
    )


def _table_section(root: Path, tables: list[tuple[str, str]]) -> str:
    lines = ["## Tables", "", "| config | rows | captioned | words a caption (median, 5-95 %) |"]
    lines.append("|---|--:|--:|--:|")
    for city, table in tables:
        captioned, words = "", ""
        if table in (*VIEWS, "captions"):
            column = "text" if table == "captions" else "caption"
            captioned, words = _caption_cells(read_table(root, city, table, [column])[column])
        rows = count_rows(root, city, table)
        lines.append(f"| `{config_name(city, table)}` | {rows:,} | {captioned} | {words} |")
    return "\n".join(lines)


def _caption_cells(captions: pd.Series) -> tuple[str, str]:
    present = captions.dropna()
    if present.empty:
        return "0", ""
    words = [len(text.split()) for text in present]
    low, middle, high = np.percentile(words, [5, 50, 95])
    return f"{len(present):,}", f"{middle:.0f} ({low:.0f}-{high:.0f})"


def _city_section(root: Path, city: str, tables: dict[str, None]) -> str:
    metadata = read_metadata(root, city)
    regions = read_regions(root, city)
    lines = [f"## {city}", "", _coverage(root, city, tables, regions), ""]
    if metadata.indicators:
        lines += [
            "| indicator | unit | kind | predicted | present | missing | mean | sd | min | max |",
            "|---|---|---|---|--:|--:|--:|--:|--:|--:|",
        ]
        for one in metadata.indicators:
            values = regions[one.name]
            numbers = [values.mean(), values.std(), values.min(), values.max()]
            cells = " | ".join("" if pd.isna(number) else f"{number:,.4g}" for number in numbers)
            predicted = "ln(y + 1)" if one.transform == "ln1p" else "y"
            lines.append(
                f"| `{one.name}` | {one.unit} | {one.kind} | {predicted} | "
                f"{int(values.notna().sum()):,} | {int(values.isna().sum()):,} | {cells} |"
            )
        lines += ["", *[f"- `{one.name}`: {one.description}" for one in metadata.indicators], ""]
    lines += ["| split | train | validation | test | in no split |", "|---|--:|--:|--:|--:|"]
    for name in ("split_random", "split_block"):
        counts = [int((regions[name] == part).sum()) for part in ("train", "validation", "test")]
        cells = " | ".join(f"{count:,}" for count in [*counts, int(regions[name].isna().sum())])
        lines.append(f"| `{name}` | {cells} |")
    return "\n".join([*lines, *_coverage_by_split(root, city, tables, regions)])


def _coverage_by_split(
    root: Path, city: str, tables: dict[str, None], regions: pd.DataFrame
) -> list[str]:
    """Whether the parts of a split are covered alike: a part that is not is another population."""
    views = [view for view in VIEWS if view in tables]
    if not views:
        return []
    counts = {
        view: regions["region_id"]
        .map(Counter(read_table(root, city, view, ["region_id"])["region_id"]))
        .fillna(0)
        for view in views
    }
    titles = [f"{view.replace('_', ' ')}: regions covered | images a region" for view in views]
    lines = ["", f"| split | part | {' | '.join(titles)} |", "|---|---|" + "--:|--:|" * len(views)]
    for name in ("split_random", "split_block"):
        for part in ("train", "validation", "test"):
            mine = regions[name] == part
            if mine.any():
                cells = [
                    f"{(counts[view][mine] > 0).mean():.1%} | {counts[view][mine].mean():.2f}"
                    for view in views
                ]
                lines.append(f"| `{name}` | {part} | {' | '.join(cells)} |")
    return lines


def _coverage(root: Path, city: str, tables: dict[str, None], regions: pd.DataFrame) -> str:
    seen: set[str] = set()
    parts = [f"{len(regions):,} regions"]
    for view in VIEWS:
        if view in tables:
            ids = read_table(root, city, view, ["region_id"])["region_id"]
            seen |= set(ids)
            parts.append(f"{ids.nunique():,} with {view.replace('_', ' ')} images")
    parts.append(f"{int((~regions['region_id'].isin(seen)).sum()):,} with no image")
    parts.append(f"{int(regions['geometry'].isna().sum()):,} with no geometry")
    return ", ".join(parts) + "."


def _notes_section(metadata: DatasetMetadata) -> str:
    if not metadata.notes:
        return ""
    return "## What to know\n\n" + "\n".join(f"- {note}" for note in metadata.notes)


def _provenance_section(root: Path, metadata: DatasetMetadata) -> str:
    rejects = read_rejects(root)
    lines = [
        "## Provenance",
        "",
        f"- Source: {metadata.source}",
        f"- Licence: {metadata.licence or 'not stated'}",
        f"- Left out: {len(rejects):,} items, listed with their reasons in `{REJECTS_FILE}`"
        + "".join(f"; {n:,} {reason}" for reason, n in rejects["reason"].value_counts().items())
        + ".",
    ]
    lines += [f"- Built with `{key}`: {value}" for key, value in metadata.parameters.items()]
    if metadata.citation:
        lines += ["", "```", metadata.citation, "```"]
    return "\n".join(lines)


__all__ = ["CARD_FILE", "write_card"]
