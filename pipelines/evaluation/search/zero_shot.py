"""Zero-shot classification of regions by text prompts.

Scores are the softmax, over the classes of an attribute, of cosine similarities between the mean
image embedding of a region and the mean prompt embedding of each class, at the temperature of the
checkpoint (CLIP, Radford et al. 2021, https://arxiv.org/abs/2103.00020, section 3.1.4). Scores
reflect the biases of the model's training data; they do not measure living conditions.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import rankdata

from dataset_builders.errors import DatasetError
from dataset_builders.files import atomic_path, digest, write_json
from dataset_builders.schema import VIEWS
from dataset_builders.yaml_records import Record, make_record, read_yaml
from pipelines.common.csv_files import write_csv

from ..analysis.bootstrap import draw_blocks
from ..embed.tables import EmbeddingTable, write_embeddings
from ..errors import InputError
from ..probe.city import City
from ..probe.splits import block_ids, geography
from .nearest import unit

DEFAULT_PROMPTS = Path(__file__).resolve().parents[3] / "configs" / "zero_shot" / "prompts.yaml"
PERMUTATIONS = REPLICATES = 1000
LEVEL = 0.95
LIMITS = (
    "Scores reflect the biases of the model's training data. The permutation interval assumes "
    "exchangeable regions; prefer the block bootstrap interval, as neighbouring regions are "
    "correlated. Prompts were written without using labels; do not select prompts by these results."
)

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Attribute:
    """Attribute with two or more classes.

    Attributes:
        name: Name of the attribute.
        classes: Phrases that describe each class.
        indicators: For each indicator, the class whose score should increase with it.
    """

    name: str
    classes: Mapping[str, Sequence[str]]
    indicators: Mapping[str, str]

    @property
    def columns(self) -> list[str]:
        """Names of the scores, `<attribute>.<class>`."""
        return [f"{self.name}.{name}" for name in self.classes]


@dataclass(frozen=True)
class Prompts:
    """Attributes, and prompt templates by view."""

    templates: Mapping[str, Sequence[str]]
    attributes: Sequence[Attribute]

    def sentences(self, view: str, phrases: Sequence[str]) -> list[str]:
        """Fill each template of a view with each phrase."""
        return [form.replace("{}", phrase) for form in self.templates[view] for phrase in phrases]


class _AttributePrompts(Record):
    classes: dict[str, list[str]]
    indicators: dict[str, str] | None = None


class _PromptFile(Record):
    templates: dict[str, list[str]]
    attributes: dict[str, _AttributePrompts]


def read_prompts(path: Path = DEFAULT_PROMPTS) -> Prompts:
    """Read a file like `configs/zero_shot/prompts.yaml`.

    Raises:
        InputError: The file does not exist or has the wrong structure.
    """
    try:
        content = make_record(_PromptFile, read_yaml(path))
    except DatasetError as error:
        raise InputError(f"No prompts in {path} (--prompts): {error}") from error
    faults = []
    if set(content.templates) != set(VIEWS):
        faults.append(f"`templates` needs {' and '.join(VIEWS)}")
    for view, forms in content.templates.items():
        if not forms or any(form.count("{}") != 1 for form in forms):
            faults.append(f"`templates.{view}` needs texts with one {{}}, got {forms!r}")
    for name, one in content.attributes.items():
        if len(one.classes) < 2 or not all(one.classes.values()):
            faults.append(f"`{name}.classes` needs two or more lists of phrases")
        if unknown := sorted(set((one.indicators or {}).values()) - set(one.classes)):
            faults.append(f"`{name}.indicators` names {unknown}, not in {list(one.classes)}")
    if faults or not content.attributes:
        raise InputError(
            f"Invalid prompts in {path}: {'; '.join(faults) or '`attributes` is empty'}. "
            "See configs/zero_shot/prompts.yaml."
        )
    attributes = [
        Attribute(k, v.classes, v.indicators or {}) for k, v in content.attributes.items()
    ]
    return Prompts(content.templates, attributes)


def score_view(
    vectors: NDArray[np.floating],
    view: str,
    prompts: Prompts,
    encode: Callable[[Sequence[str]], NDArray[np.float32]],
    logit_scale: float,
) -> NDArray[np.float32]:
    """Zero-shot scores of regions, `(N, number of classes of all attributes)`.

    Args:
        vectors: Mean image embeddings, `(N, D)`; NaN for regions without images, as their scores.
        view: View of the images.
        prompts: Attributes and templates.
        encode: Text encoder of the same checkpoint; returns `(n, D)`.
        logit_scale: Scale of the cosine similarities before the softmax.
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
) -> list[dict[str, Any]]:
    """Rank correlations with all indicators that are named in the prompts and known for the city.

    Args:
        scores: Scores by view, from [`score_view`].
        region_ids: Region ids of the rows of scores.
        prompts: Attributes and their indicators.
        city: Indicators and locations of regions.
        seed: Seed of permutations and bootstrap.
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
                    if own := _agreement(score, targets[indicator].y, blocks, seed):
                        found.append({"view": view, "score": column, "indicator": indicator, **own})
    return found


def _agreement(x: Floats, y: Floats, blocks: NDArray[np.int64], seed: int) -> dict[str, Any]:
    """Statistics of two variables; empty if they are constant or known for few regions."""
    both = np.isfinite(x) & np.isfinite(y)
    x, y = x[both], y[both]
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return {}
    rho = spearman(x, y)
    rng = np.random.default_rng(seed)
    ranks_x, ranks_y = _standard_ranks(x), _standard_ranks(y)
    null = np.array([ranks_x @ rng.permutation(ranks_y) for _ in range(PERMUTATIONS)])
    tail = (1 - LEVEL) / 2
    null_low, null_high = np.quantile(null, [tail, 1 - tail]).tolist()
    low, high = _block_interval(x, y, blocks[both], seed)
    return {
        "n": len(x),
        "spearman": rho,
        "null_low": null_low,
        "null_high": null_high,
        "p_value": (1 + int((np.abs(null) >= abs(rho)).sum())) / (1 + PERMUTATIONS),
        "low": low,
        "high": high,
        "blocks": len(np.unique(blocks[both])),
    }


def _block_interval(
    x: Floats, y: Floats, blocks: NDArray[np.int64], seed: int
) -> tuple[float | None, float | None]:
    """Percentile interval of the rank correlation from a block bootstrap."""
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
    """Spearman rank correlation, with average ranks for ties."""
    return float(_standard_ranks(x) @ _standard_ranks(y))


def _standard_ranks(x: Floats) -> Floats:
    """Ranks, centred and scaled to unit norm."""
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

    The Parquet file is an embedding table for `evaluate.py probe`.

    Args:
        table: Mean image embeddings of the regions.
        city: Indicators to compare with.
        prompts: Attributes and templates.
        encode: Text encoder of the same checkpoint; returns `(n, D)`.
        logit_scale: Scale of cosine similarities in the checkpoint.
        output: Folder of the city's files.
        label: Name of the checkpoint.

    Returns:
        Content of the JSON file.

    Raises:
        InputError: The table has no vectors of single views.
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
        "agreement": agreements(scores, table.region_ids, prompts, city),
    }
    write_json(path.with_suffix(".json"), found)
    with atomic_path(path.with_suffix(".md")) as temporary:
        temporary.write_text(agreement_table(found) + "\n", encoding="utf-8")
    return found


def agreement_table(found: Mapping[str, Any]) -> str:
    """Markdown table of the results of [`zero_shot`]."""
    head = ["view", "score", "indicator", "n", "Spearman", "95 % interval, permuted labels", "p",
            "95 % interval, block bootstrap"]  # fmt: skip
    lines = [head, ["---"] * len(head)]
    for one in found["agreement"]:
        blocks = "–" if one["low"] is None else f"{one['low']:+.2f} to {one['high']:+.2f}"
        null = f"{one['null_low']:+.2f} to {one['null_high']:+.2f}"
        values = [f"{one['spearman']:+.2f}", null, f"{one['p_value']:.3f}", blocks]
        lines.append([one["view"], one["score"], one["indicator"], str(one["n"]), *values])
    if len(lines) == 2:
        body = "The prompts name no indicator of this city."
    else:
        body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    synthetic = "Synthetic data. " if found["synthetic"] else ""
    return f"{synthetic}{found['model']} on {found['city']}, zero-shot.\n\n{body}\n\n{LIMITS}"


__all__ = [
    "DEFAULT_PROMPTS",
    "Attribute",
    "Prompts",
    "agreement_table",
    "agreements",
    "read_prompts",
    "score_view",
    "spearman",
    "zero_shot",
]
