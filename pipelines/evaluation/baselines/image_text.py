"""Tokens, CLIP encoders, contrastive loss and training of the image-text baselines."""

import math
from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel

from modeling_urbanln import load_clip

from ..errors import InputError
from .base import RegionData
from .training import train

END = 49407  # end token, the last of CLIP's vocabulary; the start token precedes it
MAX_LOG_SCALE = math.log(100.0)  # as in open_clip
SMALL = (
    "A small model trained from scratch, with the vocabulary of the captions, instead of "
    "pretrained weights."
)


@dataclass(frozen=True)
class ImageTextSettings:
    """Settings of CLIP encoders and their training.

    Attributes:
        model_name_or_path: Hub id or folder of a CLIP. None: random initialisation at the sizes
            below, with the vocabulary of the captions.
        image_size: Side length of input images, in pixels.
        max_length: Maximum number of tokens, including start and end.
        epochs: Number of epochs.
        batch_size: Pairs per batch, with in-batch negatives.
        learning_rate: Constant learning rate of AdamW.
        weight_decay: Weight decay of AdamW.
        projection_dim: Dimension of the shared space. This and the following apply to random
            initialisation only.
        patch_size: Side length of a patch, in pixels.
        vision_width: Hidden size of the image encoder.
        vision_layers: Number of layers of the image encoder.
        text_width: Hidden size of the text encoder.
        text_layers: Number of layers of the text encoder.
        head_width: Size of an attention head in both encoders.
    """

    model_name_or_path: str | None = None
    image_size: int = 64
    max_length: int = 77
    epochs: int = 10
    batch_size: int = 32
    learning_rate: float = 5e-4
    weight_decay: float = 0.01
    projection_dim: int = 128
    patch_size: int = 16
    vision_width: int = 128
    vision_layers: int = 4
    text_width: int = 96
    text_layers: int = 2
    head_width: int = 32

    def __post_init__(self) -> None:
        """Validate the settings."""
        if self.batch_size < 2:
            raise InputError(f"batch_size must be at least 2, got {self.batch_size}.")


@dataclass(frozen=True)
class Tokens:
    """Tokenized texts.

    Attributes:
        ids: Token ids, padded with the end token, `(N, L)`, int64.
        mask: Mask of tokens up to the first end token, `(N, L)`, bool.
        vocab_size: Vocabulary size; the last two ids are the start and end tokens.
    """

    ids: torch.Tensor
    mask: torch.Tensor
    vocab_size: int

    def batch(self, rows: torch.Tensor, device: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and mask of some texts, without common padding."""
        mask = self.mask[rows]
        longest = int(mask.sum(dim=1).max())
        return self.ids[rows, :longest].to(device), mask[:, :longest].to(device)


def tokenize(texts: Sequence[str], max_length: int, compact: bool) -> Tokens:
    """Tokenize texts with CLIP's tokenizer, truncated with the end token kept.

    Args:
        texts: Texts, N of them.
        max_length: Maximum number of tokens, including start and end.
        compact: Renumber the occurring tokens; makes word prediction much cheaper for randomly
            initialised models.
    """
    import open_clip

    ids = open_clip.tokenize(list(texts), context_length=max_length)
    lengths = ids.argmax(dim=1) + 1
    mask = torch.arange(max_length) < lengths[:, None]
    longest = int(lengths.max())
    ids, mask = ids[:, :longest].masked_fill(~mask[:, :longest], END), mask[:, :longest]
    if not compact:
        return Tokens(ids, mask, END + 1)
    # sorted, so start and end remain the last two ids
    occurring, ids = torch.unique(ids, sorted=True, return_inverse=True)
    return Tokens(ids, mask, len(occurring))


def require_captions(rows: Sized, data: RegionData, name: str) -> None:
    """Check that some satellite images have captions.

    Raises:
        InputError: There are fewer than two.
    """
    if len(rows) < 2:
        raise InputError(
            f"{name} needs captions, and {data.city} has {len(rows)} captioned satellite images. "
            "Caption them first: python -m pipelines.captioning run ..."
        )


def clip_model(settings: ImageTextSettings, vocab_size: int) -> CLIPModel:
    """Load a CLIP, or initialise one from torch's global generator.

    Raises:
        InputError: The checkpoint does not exist, or does not fit image size or text length.
    """
    if settings.model_name_or_path is not None:
        model = _pretrained(settings.model_name_or_path)
        # Any: transformers types these as optional
        vision: Any = model.config.vision_config
        text: Any = model.config.text_config
        fits = settings.max_length <= text.max_position_embeddings
        if settings.image_size != vision.image_size or not fits:
            raise InputError(
                f"{settings.model_name_or_path!r} takes images of {vision.image_size} pixels and "
                f"at most {text.max_position_embeddings} tokens; the recipe has image_size "
                f"{settings.image_size} and max_length {settings.max_length}."
            )
        return model
    heads = settings.head_width
    config = CLIPConfig(
        projection_dim=settings.projection_dim,
        vision_config={
            "image_size": settings.image_size,
            "patch_size": settings.patch_size,
            "hidden_size": settings.vision_width,
            "intermediate_size": 4 * settings.vision_width,
            "num_hidden_layers": settings.vision_layers,
            "num_attention_heads": settings.vision_width // heads,
        },
        text_config={
            "vocab_size": vocab_size,
            "max_position_embeddings": settings.max_length,
            "hidden_size": settings.text_width,
            "intermediate_size": 4 * settings.text_width,
            "num_hidden_layers": settings.text_layers,
            "num_attention_heads": settings.text_width // heads,
            "bos_token_id": vocab_size - 2,
            "eos_token_id": vocab_size - 1,
            "pad_token_id": vocab_size - 1,
        },
    )
    return CLIPModel(config)


def _pretrained(name: str) -> CLIPModel:
    try:
        return load_clip(name)
    except (OSError, ValueError) as error:
        raise InputError(
            f"No CLIP at {name!r} (model_name_or_path of the recipe): {error} Offline, use --size "
            "cpu, which needs no checkpoint."
        ) from error


def text_states(model: CLIPModel, ids: torch.Tensor) -> torch.Tensor:
    """Hidden states of the causal text encoder, `(B, L, width)`."""
    return model.text_model(input_ids=ids).last_hidden_state


def end_states(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Hidden states at the first end token, `(B, width)`."""
    return states[torch.arange(len(states), device=states.device), mask.sum(dim=1) - 1]


def info_nce(images: torch.Tensor, texts: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Symmetric contrastive loss of CLIP.

    Args:
        images: Image embeddings, `(B, D)`, not normalised here.
        texts: Text embeddings, `(B, D)`.
        scale: Inverse temperature.
    """
    logits = scale * images @ texts.T
    own = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def train_pairs(
    model: nn.Module,
    loss: Callable[[torch.Tensor], torch.Tensor],
    num_pairs: int,
    settings: ImageTextSettings,
    seed: int,
    name: str,
) -> list[float]:
    """Train in place with AdamW at a constant rate, as UrbanCLIP and UrbanVLP do.

    Args:
        model: Model, left in eval mode; parameters named `logit_scale` are clamped to [0, ln 100].
        loss: Loss of a batch of pair indices, `(B,)`, int64.
        num_pairs: Number of pairs, shuffled in every epoch.
        settings: Epochs, batch size and optimiser settings.
        seed: Seed of the shuffling.
        name: Name on the progress bar.

    Returns:
        Mean loss of each epoch.

    Raises:
        InputError: The loss is not finite.
    """
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    scales = [p for key, p in model.named_parameters() if key.endswith("logit_scale")]

    @torch.no_grad()
    def clamp(*_: Any) -> None:
        for scale in scales:
            scale.clamp_(0, MAX_LOG_SCALE)

    optimizer.register_step_post_hook(clamp)
    generator = torch.Generator().manual_seed(seed)
    batches = (
        rows
        for _ in range(settings.epochs)
        for rows in torch.randperm(num_pairs, generator=generator).split(settings.batch_size)
        if len(rows) > 1  # one pair has no negatives
    )
    steps = num_pairs // settings.batch_size + (num_pairs % settings.batch_size > 1)
    losses = train(model, lambda _: loss(next(batches)), optimizer, settings.epochs * steps, name)
    return np.reshape(losses, (settings.epochs, steps)).mean(axis=1).tolist()


__all__ = [
    "SMALL",
    "ImageTextSettings",
    "Tokens",
    "clip_model",
    "end_states",
    "info_nce",
    "require_captions",
    "text_states",
    "tokenize",
    "train_pairs",
]
