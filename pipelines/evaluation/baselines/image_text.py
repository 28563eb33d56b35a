"""Inputs, CLIP encoders and training loop of the image-text baselines."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F
from tqdm import trange
from transformers import CLIPConfig, CLIPModel
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from dataset_builders.files import digest, files_fingerprint
from modeling_urbanln import load_clip

from ..errors import InputError

END = 49407  # end token, the last of CLIP's vocabulary; the start token precedes it
MAX_LOG_SCALE = math.log(100.0)  # as in open_clip


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


def pixel_values(
    pixels: NDArray[np.uint8],
    size: int,
    device: str | torch.device,
    mean: Sequence[float] = OPENAI_CLIP_MEAN,
    std: Sequence[float] = OPENAI_CLIP_STD,
) -> torch.Tensor:
    """Resize and normalise images, by default for CLIP.

    Args:
        pixels: Images, `(B, S, S, 3)`, uint8.
        size: Side length of the result, in pixels.
        device: Device of the result.
        mean: Mean of each channel.
        std: Standard deviation of each channel.

    Returns:
        Normalised images, `(B, 3, size, size)`.
    """
    images = torch.from_numpy(np.array(pixels)).to(device).permute(0, 3, 1, 2).float() / 255
    if images.shape[-2:] != (size, size):
        images = F.interpolate(images, (size, size), mode="bicubic", antialias=True).clamp(0, 1)
    centre, scale = (torch.tensor(values, device=device)[:, None, None] for values in (mean, std))
    return (images - centre) / scale


def clip_model(settings: ImageTextSettings, vocab_size: int) -> CLIPModel:
    """Load a CLIP, or initialise one from torch's global generator.

    Raises:
        InputError: The checkpoint does not exist, or does not fit image size or text length.
    """
    if settings.model_name_or_path is not None:
        return _pretrained(settings.model_name_or_path, settings)
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


def _pretrained(name: str, settings: ImageTextSettings) -> CLIPModel:
    try:
        model = load_clip(name)
    except (OSError, ValueError) as error:
        raise InputError(
            f"No CLIP at {name!r} (model_name_or_path of the recipe): {error} Offline, use --size "
            "cpu, which needs no checkpoint."
        ) from error
    # Any: transformers types these as optional
    vision: Any = model.config.vision_config
    text: Any = model.config.text_config
    fits = settings.max_length <= text.max_position_embeddings
    if settings.image_size != vision.image_size or not fits:
        raise InputError(
            f"{name!r} takes images of {vision.image_size} pixels and at most "
            f"{text.max_position_embeddings} tokens; the recipe has image_size "
            f"{settings.image_size} and max_length {settings.max_length}."
        )
    return model


def checkpoint_fingerprint(name_or_path: str | None) -> str:
    """Fingerprint of a folder's files, or hash of a Hub id."""
    if name_or_path is None or not Path(name_or_path).is_dir():
        return digest(name_or_path)
    return files_fingerprint(path for path in Path(name_or_path).iterdir() if path.is_file())


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
    model.train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    scales = [p for key, p in model.named_parameters() if key.endswith("logit_scale")]
    generator = torch.Generator().manual_seed(seed)
    history = []
    for _ in trange(settings.epochs, desc=name, unit="epoch", disable=None):
        losses = []
        for rows in torch.randperm(num_pairs, generator=generator).split(settings.batch_size):
            if len(rows) < 2:  # no negatives
                continue
            value = loss(rows)
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            optimizer.step()
            with torch.no_grad():
                for scale in scales:
                    scale.clamp_(0, MAX_LOG_SCALE)
            losses.append(value.item())
        history.append(float(np.mean(losses)))
        if not math.isfinite(history[-1]):
            raise InputError(
                f"The loss of {name} became {history[-1]}: lower learning_rate in its recipe."
            )
    model.eval()
    return history


__all__ = [
    "ImageTextSettings",
    "Tokens",
    "checkpoint_fingerprint",
    "clip_model",
    "end_states",
    "info_nce",
    "pixel_values",
    "text_states",
    "tokenize",
    "train_pairs",
]
