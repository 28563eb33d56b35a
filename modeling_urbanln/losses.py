"""Losses of momentum self-distillation: pure functions on tensors (UrbanLN, equations 3 to 6).

B queries meet M keys: the teacher's embeddings of the whole current batch, then those in the
queue. The algorithm is that of ALBEF (Li et al. 2021, https://arxiv.org/abs/2107.07651).
"""

import torch
from torch.nn import functional as F


def positive_targets(
    num_keys: int,
    offset: int,
    query_ids: torch.Tensor,
    key_ids: torch.Tensor,
) -> torch.Tensor:
    """Target distribution over the keys: spread evenly over a query's positives.

    The positives of query i are key `offset + i` (its own) and every key of the same id. A city
    has hardly more images than the queue has places, so an image's own older key is often in the
    queue: without the ids it would count as a negative.

    Args:
        num_keys: M.
        offset: position of the first query's own key among the keys.
        query_ids: int64 of shape `(B,)`; a negative id is unknown and equals nothing.
        key_ids: int64 of shape `(M,)`.

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
        logits: `(B, M)`, similarities over tau.
        targets: `(B, M)`, rows sum to 1.
    """
    return -(targets * F.log_softmax(logits, dim=1)).sum(dim=1).mean()


def kl_divergence(logits: torch.Tensor, teacher_probs: torch.Tensor) -> torch.Tensor:
    """Mean over the queries of KL(q || p) (one direction of equation 5).

    Args:
        logits: the student's, `(B, M)`.
        teacher_probs: q, the pseudo-targets, `(B, M)`, detached.
    """
    return F.kl_div(F.log_softmax(logits, dim=1), teacher_probs, reduction="batchmean")


def entropy(probs: torch.Tensor) -> torch.Tensor:
    """Mean entropy in nats of distributions of shape `(B, M)`."""
    return torch.special.entr(probs).sum(dim=1).mean()


def in_batch_loss(logits_per_image: torch.Tensor, sample_ids: torch.Tensor) -> torch.Tensor:
    """CLIP's loss within a batch (Radford et al. 2021, https://arxiv.org/abs/2103.00020).

    Queries and keys are both the student's and both receive a gradient.

    Args:
        logits_per_image: `(B, B)`, images against texts of the batch, over tau.
        sample_ids: int64 of shape `(B,)`; pairs of one id are positives of one another, a negative
            id is unknown and equals nothing.
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
    """L_C of equation (4), L_D of equation (5), and the entropy of the pseudo-targets.

    Args:
        image_embeds: student's, `(B, D)`, L2-normalised; `text_embeds` likewise.
        text_embeds: see above.
        image_embeds_m: teacher's of the same pairs, `(B, D)`, L2-normalised, no gradient.
        text_embeds_m: see above.
        image_keys: teacher's keys, `(M, D)`: batch first, then queue.
        text_keys: the texts of the same keys, `(M, D)`.
        targets: `(B, M)` of [`positive_targets`].
        scale: 1 / tau, a scalar.
        student_keys: image and text keys that the student's queries meet, each `(M, D)`, where
            these differ from the teacher's.

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
