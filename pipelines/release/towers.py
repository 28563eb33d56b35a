"""Image and text tower as modules of tensors, for export."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

VISION, TEXT = "vision_model", "text_model"
INPUTS = {VISION: ("pixel_values",), TEXT: ("input_ids", "attention_mask")}
OUTPUTS = {VISION: ("image_features", "image_embeds"), TEXT: ("text_features", "text_embeds")}


class VisionTower(nn.Module):
    """Images to projected features and L2-normalised embeddings, each `(batch_size, dim)`.

    Args:
        model: UrbanLN, CLIP or SigLIP.
    """

    def __init__(self, model: Any):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """Encode images of shape `(batch_size, 3, height, width)`."""
        features = self.model.get_image_features(pixel_values=pixel_values).pooler_output
        return features, F.normalize(features, dim=-1)


class TextTower(nn.Module):
    """Texts to projected features and L2-normalised embeddings, each `(batch_size, dim)`.

    Args:
        model: UrbanLN, CLIP or SigLIP.
    """

    def __init__(self, model: Any):
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Encode token ids of shape `(batch_size, length)`."""
        features = self.model.get_text_features(
            input_ids=input_ids, attention_mask=attention_mask
        ).pooler_output
        return features, F.normalize(features, dim=-1)


def make_tower(model: Any, name: str) -> nn.Module:
    """Create a tower in evaluation mode."""
    return (VisionTower(model) if name == VISION else TextTower(model)).eval()


def sample_inputs(model: Any, name: str, batch: int, length: int, seed: int) -> dict[str, Tensor]:
    """Random inputs in the processor's format; texts end at different positions and are padded.

    Args:
        model: UrbanLN, CLIP or SigLIP.
        name: Name of the tower.
        batch: Batch size.
        length: Number of tokens.
        seed: Random seed.
    """
    generator = torch.Generator().manual_seed(seed)
    if name == VISION:
        size = model.config.vision_config.image_size
        return {"pixel_values": torch.randn(batch, 3, size, size, generator=generator)}
    text = model.config.text_config
    ids = torch.randint(1, text.vocab_size - 2, (batch, length), generator=generator)
    mask = torch.ones_like(ids)
    for row in range(batch):
        end = length - 1 - row * (length - 2) // max(batch, 1)
        ids[row, end:] = text.eos_token_id
        mask[row, end + 1 :] = 0
    return {"input_ids": ids, "attention_mask": mask}


__all__ = ["INPUTS", "OUTPUTS", "TEXT", "VISION", "make_tower", "sample_inputs"]
