"""Regions scored by prompts, with no label: which of some descriptions do its pictures look like.

The mean image embedding of a region is compared with those of the prompts of each class; the
softmax over the classes of an attribute, at the temperature of the checkpoint, is the score
(zero-shot classification of CLIP, Radford et al. 2021, https://arxiv.org/abs/2103.00020, section
3.1.4, with prompts averaged in embedding space). A score says how pictures look to a model that
has read the web, prejudice included; it is no measurement of how people live.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import rankdata

from dataset_builders.files import atomic_path, digest, write_json
from dataset_builders.schema import VIEWS
from pipelines.common.csv_files import write_csv

from ..analysis.bootstrap import draw_blocks
from ..embed.tables import EmbeddingTable, write_embeddings
from ..errors import InputError
from ..probe.city import City, Target
from ..probe.splits import block_ids, geography
from .nearest import unit
from .prompts import Prompts

PERMUTATIONS = REPLICATES = 1000
LEVEL = 0.95
LIMITS = (
    "Scores are what pictures look like to the model, with the prejudices of what it was trained "
    "on. The null interval takes regions for exchangeable, which neighbours are not: read the "
    "interval by blocks. Prompts were written without a look at labels; choosing among them by "
    "these numbers would make them training."
)

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Agreement:
    """The rank correlation of a score and an indicator.

    Attributes:
        view: of the images.
        score: column.
        indicator: that it should rise with.
        n: regions that have both.
        spearman: their rank correlation.
        null_low: of the 95 % that shuffled labels give.
        null_high: of the same.
        p_value: share of shuffles at least as far from 0.
        low: of the 95 % interval, blocks of regions drawn with replacement; None where all regions
            lie in one block, or have no place.
        high: of the same.
        blocks: that were drawn from.
    """

    view: str
    score: str
    indicator: str
    n: int
    spearman: float
    null_low: float
    null_high: float
    p_value: float
    low: float | None
    high: float | None
    blocks: int


def score_view(
    vectors: NDArray[np.floating],
    view: str,
    prompts: Prompts,
    encode: Callable[[Sequence[str]], NDArray[np.float32]],
    logit_scale: float,
) -> NDArray[np.float32]:
    """Scores of regions, `(N, columns of all attributes)`; rows of nan stay so.

    Args:
        vectors: `(N, D)` mean image embeddings, nan where a region has no image.
        view: of the images.
        prompts: what is asked.
        encode: texts to `(n, D)` vectors of the same checkpoint.
        logit_scale: what cosines are multiplied with before the softmax.
    """
    images = unit(vectors)
    parts = []
    for attribute in prompts.attributes:
        sentences = [prompts.sentences(view, own) for own in attribute.classes.values()]
        classes = unit(np.stack([unit(encode(own)).mean(0) for own in sentences]))
        logits = logit_scale * (images @ classes.T).astype(np.float64)
        odds = np.exp(logits - logits.max(1, keepdims=True))
        parts.append(odds / odds.sum(1, keepdims=True))
    return np.concatenate(parts, axis=1).astype(np.float32)


def agreements(
    scores: Mapping[str, NDArray[np.float32]],
    region_ids: Sequence[str],
    prompts: Prompts,
    city: City,
    seed: int = 0,
) -> list[Agreement]:
    """Every score against every indicator that the prompts name and the city has.

    Args:
        scores: view -> from [`score_view`].
        region_ids: of the scores' rows.
        prompts: what was asked.
        city: indicators and places.
        seed: of shuffles and draws.
    """
    rows = {region_id: row for row, region_id in enumerate(region_ids)}
    order = np.array([rows.get(region_id, -1) for region_id in city.regions["region_id"]])
    blocks = block_ids(geography(city.regions, city.block_m))
    targets = {target.name: target for target in city.targets}
    columns = [name for attribute in prompts.attributes for name in attribute.columns]
    found = []
    for view, values in scores.items():
        mine = np.where(order[:, None] >= 0, values[np.maximum(order, 0)], np.nan)
        for attribute in prompts.attributes:
            for indicator, name in attribute.indicators.items():
                column = f"{attribute.name}.{name}"
                if indicator in targets:
                    score = mine[:, columns.index(column)].astype(np.float64)
                    one = _agreement(view, column, score, targets[indicator], blocks, seed)
                    found += [] if one is None else [one]
    return found


def _agreement(
    view: str,
    column: str,
    score: Floats,
    target: Target,
    blocks: NDArray[np.int64],
    seed: int,
) -> Agreement | None:
    both = np.isfinite(score) & np.isfinite(target.y)
    x, y = score[both], target.y[both]
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    rho = spearman(x, y)
    rng = np.random.default_rng(seed)
    ranks_x, ranks_y = _standard_ranks(x), _standard_ranks(y)
    null = np.array([ranks_x @ rng.permutation(ranks_y) for _ in range(PERMUTATIONS)])
    tail = (1 - LEVEL) / 2
    null_low, null_high = np.quantile(null, [tail, 1 - tail])
    p_value = (1 + int((np.abs(null) >= abs(rho)).sum())) / (1 + PERMUTATIONS)
    low, high = _block_interval(x, y, blocks[both], seed)
    blocks_drawn = len(np.unique(blocks[both]))
    interval = (float(null_low), float(null_high), p_value, low, high, blocks_drawn)
    return Agreement(view, column, target.name, len(x), rho, *interval)


def _block_interval(
    x: Floats, y: Floats, blocks: NDArray[np.int64], seed: int
) -> tuple[float | None, float | None]:
    """Percentile interval of the rank correlation, whole blocks drawn with replacement."""
    names, members = np.unique(blocks, return_inverse=True)
    if len(names) < 2:
        return None, None
    found = []
    for counts in draw_blocks(len(names), REPLICATES, seed):
        drawn = np.repeat(np.arange(len(x)), counts[members].astype(int))
        if len(drawn) > 2 and np.ptp(x[drawn]) > 0 and np.ptp(y[drawn]) > 0:
            found.append(spearman(x[drawn], y[drawn]))
    if not found:
        return None, None
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(found, [tail, 1 - tail])
    return float(low), float(high)


def spearman(x: Floats, y: Floats) -> float:
    """Rank correlation, equal values sharing their mean rank."""
    return float(_standard_ranks(x) @ _standard_ranks(y))


def _standard_ranks(x: Floats) -> Floats:
    """Ranks of mean 0 and length 1."""
    ranks = rankdata(x) - (len(x) + 1) / 2
    return ranks / np.linalg.norm(ranks)


def zero_shot(
    table: EmbeddingTable,
    city: City,
    prompts: Prompts,
    encode: Callable[[Sequence[str]], NDArray[np.float32]],
    logit_scale: float,
    output: Path,
    label: str,
) -> dict[str, Any]:
    """Score all regions; write `zero-shot-<label>` as `.parquet`, `.csv`, `.json` and `.md`.

    The Parquet file is an embedding table: `evaluate.py probe` takes it beside all others.

    Args:
        table: mean image embeddings of the regions, of the checkpoint.
        city: indicators to compare with.
        prompts: what is asked.
        encode: texts to vectors of the same checkpoint.
        logit_scale: of the checkpoint.
        output: folder of the city's files.
        label: name of the checkpoint.

    Returns:
        What the JSON file holds.

    Raises:
        InputError: the table has no vector.
    """
    views = [view for view in table.views if view in VIEWS]
    if not views:
        raise InputError(f"The table {table.label!r} has no vector of {' or '.join(VIEWS)}.")
    scores = {
        view: score_view(table.vectors[view], view, prompts, encode, logit_scale) for view in views
    }
    columns = [name for attribute in prompts.attributes for name in attribute.columns]
    path = output / f"zero-shot-{label}.parquet"
    counts = {view: table.has(view).astype(np.int64) for view in views}
    asked = [asdict(attribute) for attribute in prompts.attributes]
    metadata = {
        **table.metadata,
        "label": path.stem,
        "encoder": f"zero-shot scores of {table.metadata['encoder']}",
        "dim": len(columns),
        "columns": columns,
        "uses": views,
        "fingerprint": digest(table.hash, asked, dict(prompts.templates)),
    }
    write_embeddings(path, table.region_ids, counts, scores, metadata)
    frame = pd.DataFrame({"region_id": table.region_ids})
    for view in views:
        for number, name in enumerate(columns):
            frame[f"{view}.{name}"] = scores[view][:, number]
    write_csv(path.with_suffix(".csv"), frame, float_format="%.6f")
    found = {
        "model": label,
        "city": city.name,
        "synthetic": city.synthetic,
        "regions": {view: int(table.has(view).sum()) for view in views},
        "columns": columns,
        "limits": LIMITS,
        "agreement": [asdict(one) for one in agreements(scores, table.region_ids, prompts, city)],
    }
    write_json(path.with_suffix(".json"), found)
    with atomic_path(path.with_suffix(".md")) as temporary:
        temporary.write_text(agreement_table(found) + "\n", encoding="utf-8")
    return found


def agreement_table(found: Mapping[str, Any]) -> str:
    """What [`zero_shot`] found, in Markdown."""
    head = ["view", "score", "indicator", "n", "Spearman", "95 % of shuffled labels", "p",
            "95 % by blocks"]  # fmt: skip
    lines = [head, ["---"] * len(head)]
    for one in found["agreement"]:
        blocks = "–" if one["low"] is None else f"{one['low']:+.2f} to {one['high']:+.2f}"
        null = f"{one['null_low']:+.2f} to {one['null_high']:+.2f}"
        values = [f"{one['spearman']:+.2f}", null, f"{one['p_value']:.3f}", blocks]
        lines.append([one["view"], one["score"], one["indicator"], str(one["n"]), *values])
    if len(lines) == 2:
        body = "No indicator of this city is named in the prompts: there is nothing to compare."
    else:
        body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    synthetic = "Synthetic data. " if found["synthetic"] else ""
    return f"{synthetic}{found['model']} on {found['city']}, zero-shot.\n\n{body}\n\n{LIMITS}"


__all__ = ["Agreement", "agreement_table", "agreements", "score_view", "spearman", "zero_shot"]
