"""Dataset card (README.md), rendered from `card.md.j2` with statistics of the dataset folder."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from huggingface_hub import DatasetCard, DatasetCardData

from .files import WrittenFiles, files_fingerprint
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

TEMPLATE = Path(__file__).with_name("card.md.j2")
MARKER, RECIPE_FILE, FIGURES = "published.json", "recipe.yaml", "figures"
PLACEHOLDER = 'name = "path/to/this/folder"  # or the id of this repository'
"""Line of the examples that a push replaces with the repository id."""
# values the Hub accepts as `license:`; anything else goes under `license_name:`
HUB_LICENCES = {
    "apache-2.0", "mit", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0",
    "cc-by-nc-sa-4.0", "odbl", "odc-by", "unknown",
}  # fmt: skip
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
SPLITS, PARTS = ("split_random", "split_block"), ("train", "validation", "test")
Table = tuple[str, str]


def write_card(root: str | Path, kind: str = FILES_KIND) -> Path:
    """Write README.md: configs for `load_dataset`, licences, statistics and loading examples.

    Synthetic datasets are marked in the title, the tags and the first line.

    Args:
        root: Folder of a finished dataset.
        kind: Kind of the folder's [`WrittenFiles`].

    Returns:
        Path of the card.

    Raises:
        DatasetError: The folder holds no finished dataset.
        ForeignFileError: README.md was not written by this function, or was edited.
    """
    root = Path(root)
    tables = sorted(list_tables(root), key=lambda pair: (pair[0], TABLES.index(pair[1])))
    metadata = read_metadata(root, tables[0][0])
    sources = list(_sources(root, tables))
    rejects = read_rejects(root)
    is_published = (root / MARKER).exists()
    shown = next((pair for pair in tables if pair[1] in VIEWS), tables[0])
    card = DatasetCard.from_template(
        _header(root, metadata, tables),
        template_path=str(TEMPLATE),
        title=_title(metadata),
        metadata=metadata,
        placeholder=PLACEHOLDER,
        shown={
            "city": shown[0],
            "table": shown[1],
            "withheld": shown[1] in VIEWS and not _redistributable(root, *shown).all(),
        },
        tables=[_table(root, *pair) for pair in tables],
        sources=sources,
        withheld=sum(one["withheld"] for one in sources) if is_published else 0,
        has_recipe=(root / RECIPE_FILE).exists(),
        cities=[_city(root, city, tables) for city in dict.fromkeys(city for city, _ in tables)],
        figures=sorted(path.stem for path in (root / FIGURES).glob("*.png")),
        rejects=len(rejects),
        reasons=rejects["reason"].value_counts().to_dict(),
        rejects_file=REJECTS_FILE,
    )
    with WrittenFiles(root, kind).writing(CARD_FILE) as temporary:
        temporary.write_text(str(card).rstrip() + "\n", encoding="utf-8")
    return root / CARD_FILE


def _title(metadata: DatasetMetadata) -> str:
    unmarked = metadata.synthetic and "synthetic" not in metadata.title.lower()
    return metadata.title + " (synthetic)" * unmarked


def _header(root: Path, metadata: DatasetMetadata, tables: Sequence[Table]) -> DatasetCardData:
    licence = metadata.licence.strip().lower()
    licences: dict[str, Any] = {"license": licence}
    if licence not in HUB_LICENCES:
        licences = {"license": "other", "license_name": metadata.licence or "not stated"}
    images = sum(count_rows(root, *pair) for pair in tables if pair[1] in VIEWS)
    names = [config_name(*pair) for pair in tables]
    return DatasetCardData(
        pretty_name=_title(metadata),
        size_categories=[next((name for top, name in SIZES if images < top), "1M<n<10M")],
        task_categories=["image-feature-extraction", "zero-shot-image-classification"],
        tags=["urban", "geospatial", "urbanln", *["synthetic"] * metadata.synthetic],
        configs=[
            {
                "config_name": name,
                "data_files": [{"split": "train", "path": f"data/{name}/part-*.parquet"}],
                # `load_dataset` caches a local folder by its name and the configs of its card;
                # without this, it returns rows of another folder or of an earlier build
                "description": f"contents {files_fingerprint(table_shards(root, *pair))}",
            }
            for pair, name in zip(tables, names, strict=True)
        ],
        **licences,
    )


def _redistributable(root: Path, city: str, view: str) -> pd.Series:
    """Whether the image of each row may be redistributed.

    Without this column, all images of a published dataset have been withheld by the licence gate;
    those of other datasets count as redistributable.
    """
    if "redistributable" not in _columns(root, city, view):
        return pd.Series(not (root / MARKER).exists(), index=range(count_rows(root, city, view)))
    return read_table(root, city, view, ["redistributable"])["redistributable"].eq(True)


def _columns(root: Path, city: str, table: str) -> list[str]:
    return pq.read_schema(table_shards(root, city, table)[0]).names


def _table(root: Path, city: str, table: str) -> dict[str, str]:
    captioned = words = ""
    if table in (*VIEWS, "captions"):
        column = "text" if table == "captions" else "caption"
        captions = read_table(root, city, table, [column])[column].dropna()
        captioned = f"{len(captions):,}"
        if len(captions):
            counts = [len(text.split()) for text in captions]
            low, middle, high = np.percentile(counts, [5, 50, 95])
            words = f"{middle:.0f} ({low:.0f}-{high:.0f})"
    rows = f"{count_rows(root, city, table):,}"
    name = config_name(city, table)
    return {"name": name, "rows": rows, "captioned": captioned, "words": words}


def _sources(root: Path, tables: Sequence[Table]) -> Iterator[dict[str, Any]]:
    for city, view in tables:
        if view not in VIEWS:
            continue
        credited = "attribution" in _columns(root, city, view)
        if not credited and not (root / MARKER).exists():
            continue
        columns = ["source", "licence"]
        rows = read_table(root, city, view, [*columns, *["attribution"] * credited])
        rows = rows.reindex(columns=[*columns, "attribution"]).fillna("")
        rows["shared"] = _redistributable(root, city, view).to_numpy()
        for (source, licence), group in rows.groupby(columns, sort=True):
            named = sorted(set(group["attribution"]) - {""})
            yield {
                "config": config_name(city, view),
                "source": source,
                "licence": licence,
                "credit": "; ".join(named[:3]) + " and others" * (len(named) > 3),
                "images": len(group),
                "withheld": int((~group["shared"]).sum()),
            }


def _city(root: Path, city: str, tables: Sequence[Table]) -> dict[str, Any]:
    metadata, regions = read_metadata(root, city), read_regions(root, city)
    views = [view for view in VIEWS if (city, view) in tables]
    counts = {}
    for view in views:
        images = Counter(read_table(root, city, view, ["region_id"])["region_id"])
        counts[view] = regions["region_id"].map(images).fillna(0)
    return {
        "name": city,
        "coverage": _coverage(regions, counts),
        "indicators": [
            [
                f"`{one.name}`",
                one.unit,
                one.kind,
                "ln(y + 1)" if one.transform == "ln1p" else "y",
                *_statistics(regions[one.name]),
            ]
            for one in metadata.indicators
        ],
        "splits": [
            [
                f"`{name}`",
                *(f"{int((regions[name] == part).sum()):,}" for part in PARTS),
                f"{int(regions[name].isna().sum()):,}",
            ]
            for name in SPLITS
        ],
        "views": [view.replace("_", " ") for view in views],
        "parts": list(_parts(regions, counts)),
    }


def _statistics(values: pd.Series) -> list[str]:
    numbers = [values.mean(), values.std(), values.min(), values.max()]
    counts = [f"{int(values.notna().sum()):,}", f"{int(values.isna().sum()):,}"]
    return [*counts, *("" if pd.isna(number) else f"{number:,.4g}" for number in numbers)]


def _coverage(regions: pd.DataFrame, counts: dict[str, pd.Series]) -> str:
    seen = pd.concat([*counts.values(), pd.Series(0, index=regions.index)], axis=1).max(axis=1)
    parts = [f"{len(regions):,} regions"]
    for view, count in counts.items():
        parts.append(f"{int((count > 0).sum()):,} with {view.replace('_', ' ')} images")
    parts.append(f"{int((seen == 0).sum()):,} with no image")
    parts.append(f"{int(regions['geometry'].isna().sum()):,} with no geometry")
    return ", ".join(parts) + "."


def _parts(regions: pd.DataFrame, counts: dict[str, pd.Series]) -> Iterator[list[str]]:
    """Image coverage of each part of a split; parts that differ in coverage are not comparable."""
    for name in SPLITS:
        for part in PARTS:
            mine = regions[name] == part
            if mine.any():
                own = [count[mine] for count in counts.values()]
                cells = [f"{(count > 0).mean():.1%} | {count.mean():.2f}" for count in own]
                yield [f"`{name}`", part, *cells]


__all__ = ["CARD_FILE", "PLACEHOLDER", "write_card"]
