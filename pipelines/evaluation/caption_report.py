"""Captions side by side: as each model wrote them, refined, and the one that was chosen.

Built from the table of captions of a dataset. Where the world is simulated, what a caption names is
held against what is there: marked in the text, and counted over all captions.
"""

import base64
import html
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from dataset_builders.errors import DatasetError
from dataset_builders.files import atomic_path
from dataset_builders.images import BadImageError, decode_image
from dataset_builders.schema import VIEWS
from dataset_builders.storage import iter_images, list_cities, read_metadata, read_table
from pipelines.common.pages import html_page

from .caption_truth import Truths, read_truths
from .city_results import VIEW_NAMES, city_title
from .documents import STYLE, Block, Heading, Link, Text
from .table_formats import Table, number, words

PAGE = "captions.html"
COLUMNS = ["image_id", "model", "text", "score", "kept", "chosen", "generated", "phrases"]
SHOWN = 2  # images of each view
SIDE = 420  # pixels of a picture on the page
PAGE_STYLE = (
    STYLE
    + """
article { border-top: 2px solid var(--line); padding: 1em 0; }
article > div { display: grid; grid-template-columns: minmax(220px, 420px) 1fr; gap: 1.2em; }
img { max-width: 100%; }
section { border-left: 3px solid var(--line); padding: 0 .9em; margin: .9em 0; }
section.chosen { border-color: #3f7f4f; background: #3f7f4f14; } section h4 { margin: .2em 0; }
section p { margin: .35em 0; font-size: 13.5px; } .stage { color: var(--soft); font-size: 12px; }
mark { padding: 0 .15em; border-radius: 3px; color: inherit; } mark.yes { background: #3f7f4f44; }
mark.no { background: #b5482f55; text-decoration: underline wavy #b5482f; } del { color: #b5482f; }
@media (max-width: 800px) { article > div { grid-template-columns: 1fr; } }
"""
)


@dataclass(frozen=True)
class Captions:
    """The captions of a city.

    Attributes:
        dataset: its folder.
        city: whose images.
        synthetic: the city is simulated.
        table: a row a candidate.
        truths: what is on the images; None where nobody knows.
    """

    dataset: Path
    city: str
    synthetic: bool
    table: pd.DataFrame
    truths: Truths | None


def find_captions(run: Path) -> Captions | None:
    """The captions of a benchmark's folder that went through most: refined ones, if there are any.

    Args:
        run: has `captioned/<dataset>` and, where the world is simulated, `worlds/<dataset>/truth`.
    """
    found = []
    for folder in sorted((run / "captioned").glob("*/")):
        try:
            city = list_cities(str(folder))[0]
            table = read_table(str(folder), city, "captions", COLUMNS)
            synthetic = read_metadata(str(folder), city).synthetic
        except (DatasetError, IndexError):
            continue  # no dataset, or captions of no pipeline
        refined = float((table["text"] != table["generated"]).mean())
        found.append((refined, len(table), folder, city, synthetic, table))
    if not found:
        return None
    _, _, folder, city, synthetic, table = max(found, key=lambda one: one[:2])
    return Captions(folder, city, synthetic, table, _truths(run, city, set(table["image_id"])))


def _truths(run: Path, city: str, image_ids: set[str]) -> Truths | None:
    """Of the world that has all of these images."""
    for folder in sorted((run / "worlds").glob("*/")):
        truths = read_truths(folder, city)
        if truths and image_ids <= set(truths.things):
            return truths
    return None


def caption_blocks(run: Path, output: Path) -> list[Block]:
    """A table of how true the captions are, and a link to the page that shows some.

    Args:
        run: see [`find_captions`].
        output: where the page goes.
    """
    captions = find_captions(run)
    if captions is None:
        return []
    write_page(output / PAGE, captions)
    mark = " (synthetic)" if captions.synthetic else ""
    blocks: list[Block] = [
        Heading(2, f"Captions{mark}"),
        Link(
            PAGE,
            f"Captions of some images side by side{mark}",
            "as each model wrote them, refined, and the one that the models agree on most",
        ),
    ]
    table = truth_table(captions)
    if table is None:
        return [*blocks, Text("What is on the images is not known: captions are not judged.")]
    return [*blocks, table]


def truth_table(captions: Captions) -> Table | None:
    """Things that captions name: how many are not there, and how many of those there are named."""
    truths = captions.truths
    if truths is None:
        return None
    kept = captions.table[captions.table["kept"].fillna(True).astype(bool)]
    stages = (
        ("as first written, all candidates", kept, "generated"),
        ("refined, all candidates", kept, "text"),
        ("refined and chosen by consensus", kept[kept["chosen"].eq(True)], "text"),
    )
    body = []
    for title, rows, column in stages:
        known = rows[rows[column].notna()]
        counts = [
            _counts(truths, text, image_id)
            for text, image_id in zip(known[column], known["image_id"], strict=True)
        ]
        frame = pd.DataFrame(counts, columns=["true", "false", "missed"])
        named = (frame["true"] + frame["false"]).clip(lower=1)
        there = (frame["true"] + frame["missed"]).clip(lower=1)
        body.append(
            (
                *words(title),
                number(len(frame), form=",d"),
                number(100 * float((frame["false"] / named).mean()), form=".1f"),
                number(100 * float((frame["true"] / there).mean()), form=".1f"),
                number(float(named.mean()), form=".1f"),
            )
        )
    return Table(
        name="captions",
        title=f"How true captions are, {city_title(captions.city, captions.synthetic)}",
        header=("captions", "n", "not there, % of named", "named, % of what is there", "things"),
        rows=tuple(body),
        notes=(
            "Means over captions. Things are found by the words of the simulated captioners, in "
            "their own wordings; how much or where something is said to be is not judged. All "
            "candidates refined: what a random choice among them gives on average.",
        ),
    )


def _counts(truths: Truths, text: str, image_id: str) -> tuple[int, int, int]:
    mentions = truths.mentions(text, image_id)
    true = {one.thing for one in mentions if one.true}
    false = {one.thing for one in mentions if not one.true}
    there = truths.things[image_id]
    return len(true & there), len(false - true), len(there - true)


# ---- the page -----------------------------------------------------------------------------------


def write_page(path: Path, captions: Captions) -> None:
    """A page of its own: pictures lie in it, it has no script, and every text is escaped."""
    mark = " (synthetic)" if captions.synthetic else ""
    title = f"Captions side by side: {city_title(captions.city, captions.synthetic)}"
    articles = "".join(
        _article(captions, view, row, caption_rows) for view, row, caption_rows in _shown(captions)
    )
    legend = (
        "Marked <mark class='yes'>so</mark>: named and there. <mark class='no'>So</mark>: named "
        "and not there. What is there is known, for the world is simulated. "
        if captions.truths
        else "What is on the images is not known, so nothing is marked. "
    )
    body = f"""<h1>{html.escape(title)}</h1>
<p>{legend}<del>Struck out</del>: phrases that refinement found no support for in the image. Green:
the caption that was chosen, for it agrees most with the others. Images stand at even steps of the
list of all; none was picked.{html.escape(mark)}</p>
{articles}"""
    with atomic_path(path) as temporary:
        temporary.write_text(html_page(title, PAGE_STYLE, body), encoding="utf-8")


def _shown(captions: Captions) -> Iterable[tuple[str, dict[str, Any], pd.DataFrame]]:
    by_image = dict(list(captions.table.groupby("image_id")))
    for view in VIEWS:
        try:
            ids = read_table(str(captions.dataset), captions.city, view, ["image_id"])
        except DatasetError:
            continue  # the city has no such images
        captioned = sorted(set(ids["image_id"]) & set(by_image))
        step = max(1, len(captioned) // (SHOWN + 1))
        wanted = set(captioned[step::step][:SHOWN])
        rows = iter_images(str(captions.dataset), captions.city, view)
        found = {row["image_id"]: row for row in rows if row["image_id"] in wanted}
        for image_id in sorted(found):
            yield view, found[image_id], by_image[image_id]


def _article(captions: Captions, view: str, row: dict[str, Any], candidates: pd.DataFrame) -> str:
    image_id = str(row["image_id"])
    chosen_first = candidates.sort_values(
        ["chosen", "score"], ascending=False, na_position="last", kind="stable"
    )
    sections = "".join(_section(captions, image_id, one) for one in chosen_first.itertuples())
    there = ""
    if captions.truths:
        things = ", ".join(sorted(captions.truths.things[image_id]))
        there = f"<p><strong>There is</strong>: {html.escape(things)}.</p>"
    return (
        f"<article><h3>{html.escape(VIEW_NAMES[view])}: {html.escape(image_id)}</h3><div>"
        f"<div>{_picture(row['image'], image_id)}{there}</div><div>{sections}</div></div></article>"
    )


def _picture(data: Any, image_id: str) -> str:
    encoded = data["bytes"] if isinstance(data, dict) else data
    try:
        image = decode_image(encoded)
    except (BadImageError, TypeError):
        return "<p>The picture cannot be decoded.</p>"
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=88)
    source = base64.b64encode(buffer.getvalue()).decode()
    return f'<img src="data:image/jpeg;base64,{source}" alt="{html.escape(image_id)}">'


def _section(captions: Captions, image_id: str, one: Any) -> str:
    kept = pd.isna(one.kept) or bool(one.kept)
    chosen = kept and not pd.isna(one.chosen) and bool(one.chosen)
    score = "" if pd.isna(one.score) else f"agreement {one.score:.2f}"
    state = "chosen" if chosen else "" if kept else "left out"
    title = ", ".join(filter(None, (str(one.model), score, state)))
    parts = [f"<h4>{html.escape(title)}</h4>"]
    refined = isinstance(one.text, str) and one.text != one.generated
    if isinstance(one.generated, str):
        stage = "as first written" if refined else "as written"
        parts += [f"<p class='stage'>{stage}</p>", _marked(captions, image_id, one.generated)]
    if refined:
        parts += ["<p class='stage'>refined</p>", _marked(captions, image_id, one.text)]
    dropped = _dropped(one.phrases)
    if dropped:
        struck = ", ".join(f"<del>{html.escape(phrase)}</del>" for phrase in dropped)
        parts.append(f"<p class='stage'>without support: {struck}</p>")
    return f"<section{' class=chosen' if chosen else ''}>{''.join(parts)}</section>"


def _dropped(phrases: Any) -> list[str]:
    """Of the caption itself, not of its crops' captions."""
    if not isinstance(phrases, str):
        return []
    own = (one for one in json.loads(phrases) if not one["kept"] and one["source"] == "caption")
    return list(dict.fromkeys(str(one["text"]) for one in own))


def _marked(captions: Captions, image_id: str, text: str) -> str:
    """A paragraph of the text, its true and its false things marked."""
    if captions.truths is None:
        return f"<p>{html.escape(text)}</p>"
    parts: list[str] = []
    start = 0
    for mention in captions.truths.mentions(text, image_id):
        parts.append(html.escape(text[start : mention.start]))
        words_ = html.escape(text[mention.start : mention.end])
        parts.append(f"<mark class='{'yes' if mention.true else 'no'}'>{words_}</mark>")
        start = mention.end
    return f"<p>{''.join(parts)}{html.escape(text[start:])}</p>"


__all__ = ["Captions", "caption_blocks", "find_captions", "truth_table", "write_page"]
