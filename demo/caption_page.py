"""The captions of an image: candidates, the one the models agree on, and what was struck out."""

import json
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import pyarrow.dataset as pads

from dataset_builders.errors import DatasetError
from dataset_builders.schema import VIEWS
from dataset_builders.storage import table_shards

from .cities import ShownCity
from .markup import SYNTHETIC, notice, picture, readable, text
from .pictures import Picture

COLUMNS = ("model", "stage", "text", "score", "kept", "drop_reason", "chosen", "phrases")
SHOWN_CHARACTERS = 8_000
LISTED = 1_000
REASONS = {
    "below_threshold": "not seen in the image",
    "not_arg_max": "another phrase fits better",
    "too_long": "too long to be checked",
}

Row = Mapping[str, Any]


class Candidates:
    """The table of caption candidates of a city.

    Args:
        city: of the dataset.
    """

    def __init__(self, city: ShownCity):
        self.city = city
        try:
            paths = table_shards(city.city.dataset_name, city.name, "captions")
        except DatasetError:  # the city is there, so what is missing is this table
            paths = []
        self._table = (
            pads.dataset([str(path) for path in paths], format="parquet") if paths else None
        )

    @cached_property
    def image_ids(self) -> list[str]:
        """The first images that have candidates, in stored order."""
        if self._table is None:
            return []
        seen: dict[str, None] = {}
        for batch in self._table.to_batches(columns=["image_id"]):
            seen.update(dict.fromkeys(batch["image_id"].to_pylist()))
            if len(seen) >= LISTED:
                break
        return list(seen)[:LISTED]

    def of_image(self, image_id: str) -> list[Row]:
        """The candidates of an image: the chosen one, then by score, then the dropped ones."""
        if self._table is None:
            return []
        have = [name for name in COLUMNS if name in self._table.schema.names]
        chosen = pads.field("image_id") == image_id
        rows = self._table.to_table(columns=have, filter=chosen).to_pylist()
        return sorted(rows, key=_order)


def _order(row: Row) -> tuple[Any, ...]:
    score = row.get("score") or 0.0
    return not row.get("chosen"), _is_dropped(row), -score, str(row.get("model"))


def caption_page(tables: Mapping[str, Candidates], name: str, image_id: str | None) -> str:
    """The page of an image as HTML; everything from the data is escaped.

    Args:
        tables: of all cities.
        name: of the city.
        image_id: of the city; None takes the first one.
    """
    candidates = tables.get(name)
    if candidates is None:
        return notice(f"There is no city {name!r} here; there is {', '.join(tables)}.")
    if not candidates.image_ids:
        return notice(
            f"The dataset has no table {name}-captions, so there are no candidates to show. "
            "`python -m pipelines.captioning run` and `export` make one.", "fine"
        )  # fmt: skip
    image_id = (image_id or candidates.image_ids[0]).strip()
    rows = candidates.of_image(image_id)
    if not rows:
        return notice(
            f"There are no candidates of an image “{image_id}”. Choose one of the list, such as "
            f"{candidates.image_ids[0]}."
        )
    city = candidates.city
    shown = _picture(city, image_id)
    rows = _with_chosen(rows, shown)
    mark = f" {SYNTHETIC}" if city.synthetic else ""
    body = "".join(map(_candidate, rows))
    image = picture(shown.jpeg if shown else None, image_id)
    what = readable(shown.view) if shown else "image"
    said = f"{len(rows)} candidate{'' if len(rows) == 1 else 's'}"
    dropped = sum(_is_dropped(row) for row in rows)
    if dropped:
        said += f", {dropped} of them left out of the consensus"
    return (
        f'<div class="captions"><figure>{image}<figcaption><b>{text(image_id)}</b>{mark}<br>'
        f'<span class="soft">{what} · {said}</span></figcaption></figure>'
        f"<div>{body}{_legend(rows)}</div></div>"
    )


def _is_dropped(row: Row) -> bool:
    """For a reason; where none is stored, `kept` only tells which one was taken."""
    return row.get("kept") is False and bool(row.get("drop_reason"))


def _picture(city: ShownCity, image_id: str) -> Picture | None:
    for view in VIEWS:
        found = city.pictures[view].by_id(image_id) if view in city.pictures else None
        if found:
            return found
    return None


def _with_chosen(rows: list[Row], shown: Picture | None) -> list[Row]:
    """Tables without the column `chosen`: the candidate that stands beside the image."""
    if shown is None or any(row.get("chosen") is not None for row in rows):
        return rows
    marked = [{**row, "chosen": row["text"] == shown.caption} for row in rows]
    return sorted(marked, key=lambda row: not row["chosen"])


def _candidate(row: Row) -> str:
    chosen, dropped = bool(row.get("chosen")), _is_dropped(row)
    state = "chosen" if chosen else "dropped" if dropped else ""
    score = row.get("score")
    facts = [f"<b>{text(row.get('model') or 'unknown model')}</b>"]
    if chosen:
        facts.append('<span class="pill">chosen</span>')
    if score is not None:
        facts.append(f"<span>consensus {score:.3f}</span>")
    if dropped:
        reason = readable(str(row["drop_reason"]))
        facts.append(f'<span class="soft">left out: {reason}</span>')
    words = str(row.get("text") or "")
    cut = " …" if len(words) > SHOWN_CHARACTERS else ""
    return (
        f'<article class="candidate {state}"><div class="line">{"".join(facts)}</div>'
        f"<p>{text(words[:SHOWN_CHARACTERS])}{cut}</p>{_struck(row)}</article>"
    )


def _struck(row: Row) -> str:
    dropped = [one for one in _phrases(row) if not one.get("kept", True)]
    if not dropped:
        return ""
    items = "".join(map(_struck_phrase, dropped))
    return f'<ul aria-label="Phrases that were struck out">{items}</ul>'


def _struck_phrase(phrase: Mapping[str, Any]) -> str:
    score, reason = phrase.get("score"), str(phrase.get("reason", ""))
    said = "" if not isinstance(score, float) else f" {score:.4f}"
    why = text(REASONS.get(reason, reason))
    return f'<li><s>{text(phrase.get("text", ""))}</s>{said} <span class="soft">{why}</span></li>'


def _phrases(row: Row) -> list[dict[str, Any]]:
    try:
        found = json.loads(row.get("phrases") or "[]")
    except ValueError:
        return []
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def _legend(rows: list[Row]) -> str:
    if any(row.get("phrases") for row in rows):
        said = (
            "Struck out: phrases that the detector does not find in the image, with its score. "
            "The consensus is the mean agreement (CAPTURE) with the other candidates."
        )
    else:
        said = (
            "This table has no record of single phrases: it was not made by "
            "`python -m pipelines.captioning`, which strikes out what the image does not show."
        )
    return f'<p class="soft small">{said}</p>'


__all__ = ["Candidates", "caption_page"]
