"""What the systems that learn from images and captions share: inputs, CLIP's towers, InfoNCE."""

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

from dataset_builders.files import digest
from modeling_urbanln import load_clip

from ..errors import InputError

END = 49407  # the last of CLIP's vocabulary; the start token is the one before
END_BYTES = 1 << 16  # of a file, for its fingerprint
MAX_LOG_SCALE = math.log(100.0)  # open_clip clamps so


@dataclass(frozen=True)
class ImageTextSettings:
    """Of two CLIP towers and their training.

    Attributes:
        model_name_or_path: Hub id or folder of a CLIP; None: towers of the sizes below, drawn at
            random, and a vocabulary of the tokens that occur in the captions.
        image_size: side of the square image that the tower sees, pixels.
        max_length: tokens at which a text is cut, start and end token included.
        epochs: passes over the pairs.
        batch_size: pairs of a step, which are one another's negatives.
        learning_rate: of AdamW, constant.
        weight_decay: of AdamW.
        projection_dim: of the common space; this and the following for drawn towers only.
        patch_size: side of a patch, pixels.
        vision_width: of the image tower.
        vision_layers: of the image tower.
        text_width: of the text tower.
        text_layers: of the text tower.
        head_width: of an attention head, both towers.
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
    """Texts as a model reads them.

    Attributes:
        ids: `(N, L)` int64, padded with the end token.
        mask: `(N, L)` bool, true up to the first end token.
        vocab_size: entries of the vocabulary; its last two are the start and the end token.
    """

    ids: torch.Tensor
    mask: torch.Tensor
    vocab_size: int

    def batch(self, rows: torch.Tensor, device: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and mask of some texts, no longer than the longest of them."""
        mask = self.mask[rows]
        longest = int(mask.sum(dim=1).max())
        return self.ids[rows, :longest].to(device), mask[:, :longest].to(device)


def tokenize(texts: Sequence[str], max_length: int, compact: bool) -> Tokens:
    """CLIP's tokens of texts, cut at `max_length`; the end token stays.

    Args:
        texts: N of them.
        max_length: start and end token included.
        compact: number the tokens that occur anew. Towers that are drawn at random need no rows
            for the others of the 49,408, and predicting words is far cheaper without.
    """
    import open_clip

    ids = open_clip.tokenize(list(texts), context_length=max_length)
    lengths = ids.argmax(dim=1) + 1
    mask = torch.arange(max_length) < lengths[:, None]
    longest = int(lengths.max())
    ids, mask = ids[:, :longest].masked_fill(~mask[:, :longest], END), mask[:, :longest]
    if not compact:
        return Tokens(ids, mask, END + 1)
    # sorted: start and end keep their place as the last two
    occurring, ids = torch.unique(ids, sorted=True, return_inverse=True)
    return Tokens(ids, mask, len(occurring))


def pixel_values(pixels: NDArray[np.uint8], size: int, device: str) -> torch.Tensor:
    """Images as a tower of CLIP sees them.

    Args:
        pixels: `(B, S, S, 3)`.
        size: side that the tower wants; images of another are resized whole.
        device: where the result lies.

    Returns:
        `(B, 3, size, size)`, by OpenAI's mean and deviation.
    """
    images = torch.from_numpy(np.array(pixels)).to(device).permute(0, 3, 1, 2).float() / 255
    if images.shape[-2:] != (size, size):
        images = F.interpolate(images, (size, size), mode="bicubic", antialias=True).clamp(0, 1)
    mean, std = (
        torch.tensor(values, device=device)[:, None, None]
        for values in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD)
    )
    return (images - mean) / std


def clip_model(settings: ImageTextSettings, vocab_size: int) -> CLIPModel:
    """The towers of a checkpoint, or drawn from torch's global generator.

    Raises:
        InputError: there is no such checkpoint, or it sees other images or shorter texts.
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
            f"No CLIP at {name!r} (model_name_or_path of the recipe): {error} Without a network, "
            "take the recipe's size `cpu`, which draws its weights."
        ) from error
    # Any: the library types these as optional
    vision: Any = model.config.vision_config
    text: Any = model.config.text_config
    fits = settings.max_length <= text.max_position_embeddings
    if settings.image_size != vision.image_size or not fits:
        raise InputError(
            f"{name!r} sees images of {vision.image_size} pixels and at most "
            f"{text.max_position_embeddings} tokens; the recipe says image_size "
            f"{settings.image_size} and max_length {settings.max_length}."
        )
    return model


def checkpoint_fingerprint(name_or_path: str | None) -> str:
    """Equal for equal weights: of a folder's files by name, size and end; of a Hub id its name."""
    if name_or_path is None or not Path(name_or_path).is_dir():
        return digest(name_or_path)
    parts: list[str | int | bytes] = []
    for path in sorted(Path(name_or_path).iterdir()):
        if path.is_file():
            size = path.stat().st_size
            with path.open("rb") as file:
                file.seek(max(0, size - END_BYTES))
                parts += [path.name, size, file.read()]
    return digest(*parts)


def text_states(model: CLIPModel, ids: torch.Tensor) -> torch.Tensor:
    """The text tower's state at every token, `(B, L, width)`; each sees only what is before."""
    return model.text_model(input_ids=ids).last_hidden_state


def end_states(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The state at the first end token: the whole text in one vector, `(B, width)`."""
    return states[torch.arange(len(states), device=states.device), mask.sum(dim=1) - 1]


def info_nce(images: torch.Tensor, texts: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """CLIP's loss: every image finds its text in the batch, and every text its image.

    Args:
        images: `(B, D)`; compared as they are.
        texts: `(B, D)`.
        scale: 1 / temperature.
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
    """Train in place by AdamW at a constant rate, as UrbanCLIP and UrbanVLP do.

    Args:
        model: left in eval mode; its parameters named `logit_scale` stay between 1 and 100.
        loss: of the pairs of these numbers, `(B,)` int64.
        num_pairs: they are shuffled anew in every epoch.
        settings: epochs, batch size and optimizer.
        seed: of the order.
        name: on the progress bar.

    Returns:
        Mean loss of every epoch.

    Raises:
        InputError: the loss is no number any more.
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
            if len(rows) < 2:  # a pair alone has nothing to be told from
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
