"""Captions tab: caption candidates of an image, their consensus and removed phrases."""

import json
from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import pyarrow.dataset as pads

from dataset_builders.errors import DatasetError
from dataset_builders.storage import list_cities, read_metadata, table_shards

from .page import notice, render
from .pictures import Picture, open_pictures

COLUMNS = ("model", "stage", "text", "score", "kept", "drop_reason", "chosen", "phrases")
SHOWN_CHARACTERS = 8_000
LISTED = 1_000
REASONS = {
    "below_threshold": "not found in the image",
    "too_long": "too long to check",
}

Row = Mapping[str, Any]


class Candidates:
    """Caption candidates of a city, with their images.

    Args:
        dataset_name: Dataset folder or Hub id.
        city: City of the dataset.
    """

    def __init__(self, dataset_name: str, city: str):
        self.pictures = open_pictures(dataset_name, city)
        self.synthetic = read_metadata(dataset_name, city).synthetic
        try:
            paths = table_shards(dataset_name, city, "captions")
        except DatasetError:  # the city has no table of captions
            paths = []
        self._table = (
            pads.dataset([str(path) for path in paths], format="parquet") if paths else None
        )

    @cached_property
    def image_ids(self) -> list[str]:
        """Ids of the first images that have candidates, in stored order."""
        return list(self._struck)

    @property
    def opening(self) -> str | None:
        """Id of the image shown first, the one with most removed phrases."""
        return max(self._struck, key=lambda name: self._struck[name], default=None)

    def of_image(self, image_id: str) -> list[Row]:
        """Candidates of an image: the chosen one, the others by score, then the dropped ones."""
        if self._table is None:
            return []
        have = [name for name in COLUMNS if name in self._table.schema.names]
        chosen = pads.field("image_id") == image_id
        rows = self._table.to_table(columns=have, filter=chosen).to_pylist()
        return sorted(rows, key=_order)

    def picture(self, image_id: str) -> Picture | None:
        """Image by id, or None if there is no such image."""
        found = (pictures.by_id(image_id) for pictures in self.pictures.values())
        return next(filter(None, found), None)

    @cached_property
    def _struck(self) -> Counter[str]:
        """Number of removed phrases by image id, for the first images."""
        found: Counter[str] = Counter()
        if self._table is None:
            return found
        have = [name for name in ("image_id", "phrases") if name in self._table.schema.names]
        for batch in self._table.to_batches(columns=have):
            for row in batch.to_pylist():
                if len(found) < LISTED or row["image_id"] in found:
                    found[row["image_id"]] += len(_struck(row))
        return found


def open_candidates(dataset_name: str) -> dict[str, Candidates]:
    """Load the caption candidates of each city of a dataset.

    Raises:
        DatasetError: There is no such dataset.
    """
    return {city: Candidates(dataset_name, city) for city in list_cities(dataset_name)}


def caption_page(tables: Mapping[str, Candidates], name: str, image_id: str | None) -> str:
    """Render the captions of an image as HTML.

    Args:
        tables: Mapping from city to caption candidates.
        name: Name of the city.
        image_id: Id of the image; None for the first one.
    """
    candidates = tables.get(name)
    if candidates is None:
        return notice(f"There is no city {name!r}; choose one of {', '.join(tables)}.")
    if candidates.opening is None:
        return notice(
            f"No caption candidates: the dataset has no table {name}-captions. Create it with "
            "`python -m pipelines.captioning run` and `export`.", "fine"
        )  # fmt: skip
    image_id = (image_id or candidates.opening).strip()
    rows = candidates.of_image(image_id)
    if not rows:
        return notice(
            f"There are no caption candidates for the image “{image_id}”. Choose one from the "
            f"list, such as {candidates.opening}."
        )
    shown = candidates.picture(image_id)
    rows = _with_chosen(rows, shown)
    return render(
        "captions",
        image_id=image_id,
        jpeg=shown.jpeg if shown else None,
        view=shown.view if shown else "image",
        synthetic=candidates.synthetic,
        rows=[_shown(row) for row in rows],
        dropped=sum(_is_dropped(row) for row in rows),
        checked=any(row.get("phrases") for row in rows),
    )


def _order(row: Row) -> tuple[Any, ...]:
    score = row.get("score") or 0.0
    return not row.get("chosen"), _is_dropped(row), -score, str(row.get("model"))


def _is_dropped(row: Row) -> bool:
    # without a reason, `kept` only marks the chosen candidate
    return row.get("kept") is False and bool(row.get("drop_reason"))


def _with_chosen(rows: list[Row], shown: Picture | None) -> list[Row]:
    """Add the column `chosen` to tables without it: the candidate that equals the caption."""
    if shown is None or any(row.get("chosen") is not None for row in rows):
        return rows
    marked = [{**row, "chosen": row["text"] == shown.caption} for row in rows]
    return sorted(marked, key=lambda row: not row["chosen"])


def _shown(row: Row) -> dict[str, Any]:
    text = str(row.get("text") or "")
    return {
        "model": row.get("model") or "unknown model",
        "state": "chosen" if row.get("chosen") else "dropped" if _is_dropped(row) else "",
        "score": row.get("score"),
        "reason": str(row.get("drop_reason")),
        "text": text[:SHOWN_CHARACTERS] + (" …" if len(text) > SHOWN_CHARACTERS else ""),
        "struck": _struck(row),
    }


def _struck(row: Row) -> list[dict[str, Any]]:
    """Phrases that were removed from a candidate, with score and reason."""
    try:
        found = json.loads(row.get("phrases") or "[]")
    except (ValueError, RecursionError):
        return []
    phrases = [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []
    return [
        {
            "text": one.get("text", ""),
            "score": score if isinstance(score := one.get("score"), float) else None,
            "why": REASONS.get(str(one.get("reason", "")), one.get("reason", "")),
        }
        for one in phrases
        if not one.get("kept", True)
    ]


__all__ = ["Candidates", "caption_page", "open_candidates"]
