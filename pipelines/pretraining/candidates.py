"""Sampling of one caption per image and epoch from several candidates.

LaCLIP (arXiv 2305.20088) and DataCompDR (arXiv 2311.17049) sample uniformly; here the probability
of a candidate is proportional to its score, the agreement of the captioning models.
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
# distinct from the streams of the batch order (seed, epoch) and the sentences (seed, epoch, pair)
DRAW_STREAM = (0, 1)

logger = logging.getLogger(__name__)

CountTokens = Callable[[pa.Array], np.ndarray]
LoadTable = Callable[[str], datasets.Dataset | None]


@dataclass
class CaptionCandidates:
    """M caption candidates of N pairs; the texts stay on disk.

    The probability of a candidate is its score divided by the sum over its pair. A missing score is
    replaced by the mean of the pair; without scores, or if all are 0, probabilities are equal.

    Attributes:
        table: Candidates of all cities, memory-mapped.
        rows: Row of each candidate in `table`, `(M,)`, grouped by pair.
        num_tokens: Length of each candidate in tokens, `(M,)`, truncated to the model's limit.
        offsets: Start of the candidates of each pair, `(N + 1,)`; pair i has candidates
            `offsets[i]` to `offsets[i + 1]`. A pair without candidates keeps its own caption.
        cumulative: Cumulative probability of the candidates within each pair, `(M,)`.
        best_num_tokens: Length of the pair's own caption in tokens, `(N,)`.
    """

    table: datasets.Dataset
    rows: np.ndarray
    num_tokens: np.ndarray
    offsets: np.ndarray
    cumulative: np.ndarray
    best_num_tokens: np.ndarray
    _cached: tuple[tuple[int, int], np.ndarray] | None = field(default=None, init=False, repr=False)

    def draw(self, seed: int, epoch: int) -> np.ndarray:
        """Sampled candidate of each pair in an epoch, `(N,)`; -1 for pairs without candidates.

        Depends only on seed and epoch, so that all processes, workers and resumed runs agree.
        """
        if self._cached is None or self._cached[0] != (seed, epoch):
            self._cached = ((seed, epoch), self._draw(seed, epoch))
        return self._cached[1]

    def texts(self, drawn: np.ndarray) -> list[str]:
        """Cleaned texts of sampled candidates, none of which may be -1."""
        if not len(drawn):
            return []
        # `or ""` is for the type checker: empty candidates were removed when counting tokens
        return [clean_caption(text) or "" for text in self.table[self.rows[drawn].tolist()]["text"]]

    def epoch_num_tokens(self, seed: int, epoch: int) -> np.ndarray:
        """Length in tokens of the caption of each pair in an epoch, `(N,)`."""
        drawn = self.draw(seed, epoch)
        if not len(self.num_tokens):
            return self.best_num_tokens
        return np.where(drawn < 0, self.best_num_tokens, self.num_tokens[drawn])

    def update_digest(self, digest: Any) -> None:
        """Update a hash with the data that the samples depend on."""
        for numbers in (self.offsets, self.cumulative):
            digest.update(np.ascontiguousarray(numbers).tobytes())
        for start in range(0, len(self.rows), ROWS_AT_A_TIME):
            chunk = np.arange(start, min(start + ROWS_AT_A_TIME, len(self.rows)))
            digest.update("\0".join(self.texts(chunk)).encode())

    def _draw(self, seed: int, epoch: int) -> np.ndarray:
        uniform = np.random.default_rng((seed, epoch, *DRAW_STREAM)).random(len(self.offsets) - 1)
        first, stop = self.offsets[:-1], self.offsets[1:]
        # probabilities of pair i lie in (i, i + 1]: one sorted array for all pairs
        owner = np.repeat(np.arange(len(first)), stop - first)
        places = np.searchsorted(
            owner + self.cumulative, np.arange(len(first)) + uniform, side="right"
        )
        # clip, because i + probability is rounded
        return np.where(stop > first, np.clip(places, first, np.maximum(stop - 1, first)), -1)


def read_candidates(
    listing: pd.DataFrame,
    best_num_tokens: np.ndarray,
    load_table: LoadTable,
    count_tokens: CountTokens,
    max_length: int,
    by_score: bool = True,
) -> CaptionCandidates:
    """Read the kept rows of `<city>-captions` for the training pairs of all cities.

    Args:
        listing: One row per pair: table, image_id, split.
        best_num_tokens: Length of the pairs' own captions in tokens, `(N,)`.
        load_table: Function that loads a table by its config name, None if it has no rows.
        count_tokens: Function that counts the tokens of cleaned texts.
        max_length: Limit in tokens.
        by_score: Whether probabilities are proportional to the scores instead of equal.

    Raises:
        InputError: If there is no such table, it lacks a column, or has no candidates for these
            images.
    """
    cities = sorted({parse_config_name(name)[0] for name in listing["table"].unique()})
    parts = {city: _load(city, load_table) for city in cities}
    owners = _owners(listing, parts)
    table = datasets.concatenate_datasets([part.select_columns("text") for part in parts.values()])
    lengths = _lengths(table, owners, count_tokens)
    if dropped := int(((owners >= 0) & (lengths == 0)).sum()):
        logger.warning(
            "%d kept captions are ignored: they are empty, or contain a token of a chat template.",
            dropped,
        )
    owners[lengths == 0] = -1
    rows = np.flatnonzero(owners >= 0)
    if not len(rows):
        raise InputError(
            "--caption_sampling score or random: the tables "
            f"{', '.join(f'{city}-captions' for city in cities)} have no kept caption of any "
            "training image. `--caption_sampling best` uses the captions of the image tables."
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
    """Number of tokens of each used text, 0 if it is empty after cleaning."""
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
        raise InputError(_missing(name, "is missing or has no rows"))
    if lacking := [column for column in CANDIDATE_COLUMNS if column not in table.column_names]:
        raise InputError(_missing(name, f"lacks the column(s) {', '.join(lacking)}"))
    columns = [*CANDIDATE_COLUMNS, *({VIEW_COLUMN} & set(table.column_names))]
    return table.select_columns(columns)


def _missing(name: str, what: str) -> str:
    return (
        f"--caption_sampling needs the table {name!r}, which {what}. "
        "`python -m pipelines.captioning export` writes it; `--caption_sampling best` does not "
        "need it."
    )


def _owners(listing: pd.DataFrame, parts: Mapping[str, datasets.Dataset]) -> np.ndarray:
    """Training pair of each candidate row, -1 for unused rows."""
    cities, views = zip(*(parse_config_name(name) for name in listing["table"]), strict=True)
    ids = pa.array(listing["image_id"].astype("string"), type=pa.large_string())
    # ids may contain the separator, so they come last
    by_city = _keys(_large(cities), ids)
    by_view = _keys(_large(cities), _large(views), ids)
    train = np.flatnonzero(listing["split"] == "train")
    owners = []
    for city, part in parts.items():
        name = pa.scalar(city, pa.large_string())
        image_ids = _column(part, "image_id", pa.large_string())
        if VIEW_COLUMN in part.column_names:  # ids may repeat across views
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
    """Column as an Arrow array, which takes a fraction of the memory of Python strings."""
    return table.select_columns([name]).with_format("arrow")[:][name].cast(type)


def _cumulative(scores: np.ndarray, offsets: np.ndarray) -> np.ndarray:
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
    """Sample one candidate per image once, uniformly.

    Args:
        listing: One row per pair: table, image_id, caption. Images without candidates keep their
            caption.
        load_table: See [`read_candidates`].
        count_tokens: See [`read_candidates`].
        max_length: See [`read_candidates`].
        seed: Random seed.

    Raises:
        InputError: See [`read_candidates`].
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
