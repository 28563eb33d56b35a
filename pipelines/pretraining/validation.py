"""Image-text retrieval on the validation pairs."""

from collections.abc import Sequence

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from modeling_urbanln import UrbanLNModel

from .batches import BatchIndices, PairBatches, batch_loader

CHUNK = 1024  # queries


@torch.no_grad()
def validate(
    accelerator: Accelerator,
    model: UrbanLNModel,
    batches: PairBatches,
    batch_size: int,
    num_workers: int = 0,
) -> dict[str, float]:
    """Embed the validation pairs, distributed over the processes, and compute retrieval metrics.

    Args:
        accelerator: Accelerator.
        model: Model on its device; its mode is restored.
        batches: Dataset of batches.
        batch_size: Number of pairs per batch and process.
        num_workers: Number of loading processes.

    Returns:
        [`retrieval_metrics`], equal in all processes.
    """
    pairs = batches.pairs
    order = pairs.validation[np.argsort(pairs.num_tokens[pairs.validation], kind="stable")]
    own = order[accelerator.process_index :: accelerator.num_processes]
    plan = [
        BatchIndices(0, own[start : start + batch_size]) for start in range(0, len(own), batch_size)
    ]
    was_training = model.training
    model.eval()
    parts = []
    loader = batch_loader(batches, plan, num_workers, accelerator.device.type == "cuda")
    for step, batch in zip(plan, loader, strict=True):
        inputs = {name: value.to(accelerator.device) for name, value in batch.items()}
        with accelerator.autocast():
            image = model.get_image_features(inputs["pixel_values"]).pooler_output
            text = model.get_text_features(
                inputs["input_ids"], attention_mask=inputs["attention_mask"]
            ).pooler_output
        parts.append((step.indices, _unit(image), _unit(text)))
    model.train(was_training)

    gathered = gather_object(parts)
    indices = np.concatenate([part[0] for part in gathered])
    by_index = np.argsort(indices)  # independent of the number of processes
    images = np.concatenate([part[1] for part in gathered])[by_index]
    texts = np.concatenate([part[2] for part in gathered])[by_index]
    captions = pairs.captions.take(indices[by_index]).to_pylist()
    return retrieval_metrics(images, texts, captions)


def _unit(embeds: torch.Tensor) -> np.ndarray:
    return torch.nn.functional.normalize(embeds.float(), dim=-1).cpu().numpy()


def retrieval_metrics(
    image_embeds: np.ndarray,
    text_embeds: np.ndarray,
    texts: Sequence[str],
    ks: Sequence[int] = (1, 5),
) -> dict[str, float]:
    """Recall at k of N image-text pairs, where row i of both matrices is pair i.

    A candidate is relevant if it is the query's counterpart or has the same text. Ties rank
    irrelevant candidates first, so that constant embeddings have a recall of 0.

    Args:
        image_embeds: Image embeddings of shape `(N, D)`, L2-normalised.
        text_embeds: Text embeddings of shape `(N, D)`, L2-normalised.
        texts: N captions.
        ks: Values of k.

    Returns:
        `image_to_text_recall_at_<k>`, `text_to_image_recall_at_<k>` and `chance_recall_at_<k>` (of
        a random order) per k, and `mean_recall`, the mean of all recalls.
    """
    _, groups = np.unique(np.asarray(texts, dtype=object).astype(str), return_inverse=True)
    directions = {
        "image_to_text": first_hits(image_embeds, text_embeds, groups),
        "text_to_image": first_hits(text_embeds, image_embeds, groups),
    }
    metrics = {
        f"{name}_recall_at_{k}": float((ranks < k).mean())
        for name, ranks in directions.items()
        for k in ks
    }
    mean_recall = float(np.mean(list(metrics.values())))
    chance = {f"chance_recall_at_{k}": chance_recall(groups, k) for k in ks}
    return {**metrics, **chance, "mean_recall": mean_recall}


def first_hits(queries: np.ndarray, candidates: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Rank of the first relevant candidate of each query, from 0, `(N,)`.

    Args:
        queries: Query embeddings of shape `(N, D)`.
        candidates: Candidate embeddings of shape `(N, D)`.
        groups: Group of each query and candidate, `(N,)`; candidates of the query's group are
            relevant.
    """
    ranks = np.empty(len(queries), dtype=np.int64)
    for start in range(0, len(queries), CHUNK):
        part = slice(start, start + CHUNK)
        scores = queries[part] @ candidates.T
        right = groups[part, None] == groups[None, :]
        best = np.where(right, scores, -np.inf).max(axis=1, keepdims=True)
        ranks[part] = (~right & (scores >= best)).sum(axis=1)
    return ranks


def chance_recall(groups: np.ndarray, k: int) -> float:
    """Expected recall at k of a random order of N candidates."""
    total = len(groups)
    _, inverse, counts = np.unique(groups, return_inverse=True, return_counts=True)
    wrong = total - counts[inverse]
    miss = np.ones(total)
    for drawn in range(min(k, total)):
        miss *= np.clip(wrong - drawn, 0, None) / (total - drawn)
    return float((1 - miss).mean())


__all__ = ["chance_recall", "first_hits", "retrieval_metrics", "validate"]
