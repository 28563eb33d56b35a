"""Losses of momentum self-distillation as functions of tensors (UrbanLN, equations 3 to 6).

B queries are compared with M keys: the teacher's embeddings of the current batch, followed by those
of the queue. The algorithm is ALBEF's (Li et al. 2021, https://arxiv.org/abs/2107.07651).
"""

import torch
from torch.nn import functional as F


def positive_targets(
    num_keys: int,
    offset: int,
    query_ids: torch.Tensor,
    key_ids: torch.Tensor,
) -> torch.Tensor:
    """Target distribution over the keys, uniform over the positives of each query.

    The positives of query i are its own key `offset + i` and all keys of the same id. A city often
    has fewer images than the queue has entries, so the queue often holds an earlier key of the same
    image, which would otherwise count as a negative.

    Args:
        num_keys: Number of keys M.
        offset: Index of the first query's own key.
        query_ids: Sample ids of shape `(B,)`, int64; a negative id is unknown and matches nothing.
        key_ids: Sample ids of shape `(M,)`, int64.

    Returns:
        Float tensor of shape `(B, M)` whose rows sum to 1.
    """
    num_queries = query_ids.shape[0]
    positive = (query_ids[:, None] == key_ids[None, :]) & (query_ids[:, None] >= 0)
    rows = torch.arange(num_queries, device=query_ids.device)
    own = torch.zeros(num_queries, num_keys, dtype=torch.bool, device=query_ids.device)
    own[rows, offset + rows] = True
    positive = (positive | own).float()
    return positive / positive.sum(dim=1, keepdim=True)


def cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean over the queries of `-sum_k target_k log p_k` (one direction of equation 4).

    Args:
        logits: Similarities divided by tau, of shape `(B, M)`.
        targets: Target distributions of shape `(B, M)`.
    """
    return -(targets * F.log_softmax(logits, dim=1)).sum(dim=1).mean()


def kl_divergence(logits: torch.Tensor, teacher_probs: torch.Tensor) -> torch.Tensor:
    """Mean over the queries of KL(q || p) (one direction of equation 5).

    Args:
        logits: Logits of the student, of shape `(B, M)`.
        teacher_probs: Pseudo-targets q of shape `(B, M)`, detached.
    """
    return F.kl_div(F.log_softmax(logits, dim=1), teacher_probs, reduction="batchmean")


def entropy(probs: torch.Tensor) -> torch.Tensor:
    """Mean entropy in nats of distributions of shape `(B, M)`."""
    return torch.special.entr(probs).sum(dim=1).mean()


def in_batch_loss(logits_per_image: torch.Tensor, sample_ids: torch.Tensor) -> torch.Tensor:
    """CLIP's loss within a batch (Radford et al. 2021, https://arxiv.org/abs/2103.00020).

    Args:
        logits_per_image: Image-text similarities divided by tau, of shape `(B, B)`.
        sample_ids: Sample ids of shape `(B,)`, int64; pairs of equal id are positives of one
            another, a negative id is unknown and matches nothing.
    """
    targets = positive_targets(len(sample_ids), 0, sample_ids, sample_ids)
    logits = logits_per_image.float()
    return (cross_entropy(logits, targets) + cross_entropy(logits.T, targets)) / 2


def momentum_distillation_losses(
    image_embeds: torch.Tensor,
    text_embeds: torch.Tensor,
    image_embeds_m: torch.Tensor,
    text_embeds_m: torch.Tensor,
    image_keys: torch.Tensor,
    text_keys: torch.Tensor,
    targets: torch.Tensor,
    scale: torch.Tensor,
    student_keys: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> dict[str, torch.Tensor]:
    """Contrastive loss (4), distillation loss (5) and entropy of the pseudo-targets.

    Args:
        image_embeds: Image embeddings of the student, `(B, D)`, L2-normalised.
        text_embeds: Text embeddings of the student, `(B, D)`, L2-normalised.
        image_embeds_m: Image embeddings of the teacher, `(B, D)`, L2-normalised, no gradient.
        text_embeds_m: Text embeddings of the teacher, `(B, D)`, L2-normalised, no gradient.
        image_keys: Image keys of the teacher, `(M, D)`: batch, then queue.
        text_keys: Text keys of the teacher, `(M, D)`, in the same order.
        targets: Target distributions of shape `(B, M)`, see [`positive_targets`].
        scale: 1 / tau, a scalar.
        student_keys: Image and text keys for the student's queries, each `(M, D)`. Defaults to
            the teacher's.

    Returns:
        `contrastive_loss`, `distillation_loss` and `target_entropy`, scalars.
    """
    met_images, met_texts = student_keys or (image_keys, text_keys)
    logits_i2t = scale * image_embeds @ met_texts.T  # (B, M)
    logits_t2i = scale * text_embeds @ met_images.T
    with torch.no_grad():
        probs_i2t = (scale * image_embeds_m @ text_keys.T).softmax(dim=1)
        probs_t2i = (scale * text_embeds_m @ image_keys.T).softmax(dim=1)
    contrastive = cross_entropy(logits_i2t, targets) + cross_entropy(logits_t2i, targets)
    distillation = kl_divergence(logits_i2t, probs_i2t) + kl_divergence(logits_t2i, probs_t2i)
    return {
        "contrastive_loss": contrastive / 2,
        "distillation_loss": distillation / 2,
        "target_entropy": (entropy(probs_i2t) + entropy(probs_t2i)) / 2,
    }


__all__ = [
    "cross_entropy",
    "entropy",
    "in_batch_loss",
    "kl_divergence",
    "momentum_distillation_losses",
    "positive_targets",
]
