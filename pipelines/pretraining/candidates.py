"""All kept captions of an image, one of which is drawn in each epoch.

LaCLIP (arXiv 2305.20088) and DataCompDR (arXiv 2311.17049) train on a caption drawn anew each time
from several of an image; here the draw prefers captions that the captioning models agree on.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from dataset_builders.captions import clean_caption
from dataset_builders.schema import parse_config_name

from ..common.errors import InputError

CANDIDATE_COLUMNS = ("image_id", "text", "score", "kept")
VIEW_COLUMN = "view"
ROWS_AT_A_TIME = 1024
# distinct from the streams of the order (seed, epoch) and of the sentences (seed, epoch, pair)
DRAW_STREAM = (0, 1)

logger = logging.getLogger(__name__)

CountTokens = Callable[[pa.Array], np.ndarray]
LoadTable = Callable[[str], datasets.Dataset | None]


@dataclass
class CaptionCandidates:
    """The M captions that the captions of N pairs are drawn from; their texts stay on disk.

    The chance of a candidate is its score over the sum of its image's scores. A candidate without
    a score gets the mean of the others; if none has one, or all are 0, chances are equal.

    Attributes:
        table: Candidates of all cities, memory-mapped.
        rows: `(M,)`, row of each candidate in `table`, grouped by pair.
        num_tokens: `(M,)`, start and end token included, at most the model's length.
        offsets: `(N + 1,)`: pair i has the candidates `offsets[i]` to `offsets[i + 1]`. A pair
            without any keeps the caption of its image.
        cumulative: `(M,)`, chance of a candidate and of those before it of its pair.
        best_num_tokens: `(N,)`, length of the image's own caption.
    """

    table: datasets.Dataset
    rows: np.ndarray
    num_tokens: np.ndarray
    offsets: np.ndarray
    cumulative: np.ndarray
    best_num_tokens: np.ndarray
    _cached: tuple[tuple[int, int], np.ndarray] | None = field(default=None, init=False, repr=False)

    def draw(self, seed: int, epoch: int) -> np.ndarray:
        """The candidate of each pair in an epoch: `(N,)`; -1 where a pair has none.

        A pure function of seed and epoch, so that any process, worker or resumed run draws the
        same.
        """
        if self._cached is None or self._cached[0] != (seed, epoch):
            self._cached = ((seed, epoch), self._draw(seed, epoch))
        return self._cached[1]

    def texts(self, drawn: np.ndarray) -> list[str]:
        """The cleaned texts of drawn candidates, none of which is -1."""
        if not len(drawn):
            return []
        # cleaned before it was counted, so that something is left
        return [clean_caption(text) or "" for text in self.table[self.rows[drawn].tolist()]["text"]]

    def epoch_num_tokens(self, seed: int, epoch: int) -> np.ndarray:
        """Length of the caption of each pair in an epoch: `(N,)`."""
        drawn = self.draw(seed, epoch)
        if not len(self.num_tokens):
            return self.best_num_tokens
        return np.where(drawn < 0, self.best_num_tokens, self.num_tokens[drawn])

    def update_digest(self, digest: Any) -> None:
        """Add everything a draw depends on to a hash."""
        for numbers in (self.offsets, self.cumulative):
            digest.update(np.ascontiguousarray(numbers).tobytes())
        for start in range(0, len(self.rows), ROWS_AT_A_TIME):
            chunk = np.arange(start, min(start + ROWS_AT_A_TIME, len(self.rows)))
            digest.update("\0".join(self.texts(chunk)).encode())

    def _draw(self, seed: int, epoch: int) -> np.ndarray:
        uniform = np.random.default_rng((seed, epoch, *DRAW_STREAM)).random(len(self.offsets) - 1)
        first, stop = self.offsets[:-1], self.offsets[1:]
        # the chances of pair i lie in (i, i + 1]: one sorted array for all pairs
        owner = np.repeat(np.arange(len(first)), stop - first)
        places = np.searchsorted(
            owner + self.cumulative, np.arange(len(first)) + uniform, side="right"
        )
        # i + chance is rounded: keep to the pair's own
        return np.where(stop > first, np.clip(places, first, np.maximum(stop - 1, first)), -1)


def read_candidates(
    listing: pd.DataFrame,
    best_num_tokens: np.ndarray,
    load_table: LoadTable,
    count_tokens: CountTokens,
    max_length: int,
    by_score: bool = True,
) -> CaptionCandidates:
    """Read the kept rows of `<city>-captions` for the training pairs of every city.

    Args:
        listing: One row per pair: table, image_id, split.
        best_num_tokens: `(N,)`, length of the images' own captions.
        load_table: Loads a table by its config name; None if it has no rows.
        count_tokens: Counts the tokens of cleaned texts.
        max_length: Maximum length of a text, in tokens.
        by_score: Draw in proportion to the scores; otherwise chances are equal.

    Raises:
        InputError: There is no such table, it lacks a column, or holds nothing for these images.
    """
    cities = sorted({parse_config_name(name)[0] for name in listing["table"].unique()})
    parts = {city: _load(city, load_table) for city in cities}
    owners = _owners(listing, parts)
    columns = [part.select_columns(["text"]) for part in parts.values()]
    table = datasets.concatenate_datasets(columns) if len(columns) > 1 else columns[0]
    lengths = _lengths(table, owners, count_tokens)
    if dropped := int(((owners >= 0) & (lengths == 0)).sum()):
        logger.warning(
            "%d kept captions are not drawn: they are empty, or hold a token of a chat template.",
            dropped,
        )
    owners[lengths == 0] = -1
    rows = np.flatnonzero(owners >= 0)
    if not len(rows):
        raise InputError(
            "--caption_sampling score or random: the tables "
            f"{', '.join(f'{city}-captions' for city in cities)} have no kept caption of any "
            "image that is trained on. `--caption_sampling best` uses the images' own captions."
        )
    rows = rows[np.argsort(owners[rows], kind="stable")]
    offsets = np.searchsorted(owners[rows], np.arange(len(listing) + 1))
    scores = np.concatenate(
        [_column(part, "score", pa.float64()).to_numpy() for part in parts.values()]
    )[rows]
    return CaptionCandidates(
        table=table,
        rows=rows,
        num_tokens=np.minimum(lengths[rows], max_length),
        offsets=offsets,
        cumulative=_cumulative(scores if by_score else np.ones(len(rows)), offsets),
        best_num_tokens=best_num_tokens,
    )


def _lengths(table: datasets.Dataset, owners: np.ndarray, count: CountTokens) -> np.ndarray:
    """Tokens of each used text; 0 if nothing is left of it after cleaning."""
    lengths = np.zeros(len(table), dtype=np.int32)
    texts = table.with_format("arrow")
    for start in range(0, len(table), ROWS_AT_A_TIME):
        owned = np.flatnonzero(owners[start : start + ROWS_AT_A_TIME] >= 0)
        if not len(owned):
            continue
        chunk = texts[start : start + ROWS_AT_A_TIME]["text"].take(pa.array(owned)).to_pylist()
        cleaned = [clean_caption(text) or "" for text in chunk]
        counted = count(_large(cleaned))
        lengths[start + owned] = np.where([bool(text) for text in cleaned], counted, 0)
    return lengths


def _load(city: str, load_table: LoadTable) -> datasets.Dataset:
    name = f"{city}-captions"
    try:
        table = load_table(name)
    except (FileNotFoundError, ValueError) as error:
        raise InputError(_missing(name, f"cannot be read: {error}")) from error
    if table is None:
        raise InputError(_missing(name, "is not there, or has no rows"))
    if lacking := [column for column in CANDIDATE_COLUMNS if column not in table.column_names]:
        raise InputError(_missing(name, f"lacks the column(s) {', '.join(lacking)}"))
    columns = [*CANDIDATE_COLUMNS, *({VIEW_COLUMN} & set(table.column_names))]
    return table.select_columns(columns)


def _missing(name: str, what: str) -> str:
    return (
        f"--caption_sampling draws from the table {name!r}, which {what}. "
        "`python -m pipelines.captioning export` writes it; `--caption_sampling best` needs none."
    )


def _owners(listing: pd.DataFrame, parts: Mapping[str, datasets.Dataset]) -> np.ndarray:
    """The training pair of each candidate row; -1 for rows that are not used."""
    cities, views = zip(*(parse_config_name(name) for name in listing["table"]), strict=True)
    ids = pa.array(listing["image_id"].astype("string"), type=pa.large_string())
    # the text of an id can hold any character, so it comes last
    by_city = _keys(_large(cities), ids)
    by_view = _keys(_large(cities), _large(views), ids)
    train = np.flatnonzero(listing["split"] == "train")
    owners = []
    for city, part in parts.items():
        name = pa.scalar(city, pa.large_string())
        image_ids = _column(part, "image_id", pa.large_string())
        if VIEW_COLUMN in part.column_names:  # both views may use an id
            view = _column(part, VIEW_COLUMN, pa.large_string())
            keys, known = _keys(name, view, image_ids), by_view
        else:
            keys, known = _keys(name, image_ids), by_city
        found = pc.fill_null(pc.index_in(keys, known.take(pa.array(train))), -1).to_numpy()
        kept = pc.fill_null(_column(part, "kept", pa.bool_()), False).to_numpy()
        owners.append(np.where(kept & (found >= 0), train[found], -1))
    return np.concatenate(owners)


def _keys(*parts: Any) -> Any:
    return pc.binary_join_element_wise(*parts, pa.scalar("/", pa.large_string()))


def _large(texts: Sequence[str]) -> pa.Array:
    return pa.array(texts, type=pa.large_string())


def _column(table: datasets.Dataset, name: str, type: pa.DataType) -> pa.ChunkedArray:
    """A column as Arrow: a list of Python strings would take several times the memory."""
    return table.select_columns([name]).with_format("arrow")[:][name].cast(type)


def _cumulative(scores: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Cumulative chances within each pair: `(M,)`; the last of a pair is 1."""
    counts = np.diff(offsets)
    owner = np.repeat(np.arange(len(counts)), counts)
    known = np.isfinite(scores)
    weights = np.where(known, np.maximum(scores, 0), 0)
    sums = np.bincount(owner, weights, len(counts))
    numbers = np.bincount(owner, known, len(counts))
    means = np.divide(sums, numbers, out=np.zeros_like(sums), where=numbers > 0)
    weights = np.where(known, weights, means[owner])
    totals = np.bincount(owner, weights, len(counts))
    weights = np.where(totals[owner] > 0, weights, 1)
    totals = np.where(totals > 0, totals, counts)
    chances = weights / totals[owner]
    running = np.cumsum(chances)
    before = np.concatenate([[0.0], running])[offsets[:-1]]
    return np.minimum(running - before[owner], 1)


def random_captions(
    listing: pd.DataFrame,
    load_table: LoadTable,
    count_tokens: CountTokens,
    max_length: int,
    seed: int,
) -> list[str]:
    """One of all kept candidates of each image, drawn once and with equal chances.

    Args:
        listing: One row per pair: table, image_id, caption; an image without candidates keeps its
            own caption.
        load_table: See [`read_candidates`].
        count_tokens: See there.
        max_length: See there.
        seed: Seed of the draw.

    Raises:
        InputError: See there.
    """
    candidates = read_candidates(
        listing.assign(split="train").reset_index(drop=True),
        np.zeros(len(listing), dtype=np.int64),
        load_table,
        count_tokens,
        max_length,
        by_score=False,
    )
    drawn = candidates.draw(seed, 0)
    found = iter(candidates.texts(drawn[drawn >= 0]))
    own = listing["caption"]
    return [next(found) if row >= 0 else text for row, text in zip(drawn, own, strict=True)]


__all__ = ["CaptionCandidates", "random_captions", "read_candidates"]
