"""The two towers as graphs of tensors: what is exported, and what exports are checked against."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

VISION, TEXT = "vision_model", "text_model"
INPUTS = {VISION: ("pixel_values",), TEXT: ("input_ids", "attention_mask")}
OUTPUTS = {VISION: ("image_features", "image_embeds"), TEXT: ("text_features", "text_embeds")}


class VisionTower(nn.Module):
    """Pixels to projected features and unit vectors, `(B, dim)` each.

    Args:
        model: UrbanLN, CLIP or SigLIP.
    """

    def __init__(self, model: Any):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """Encode `(B, 3, height, width)`."""
        features = self.model.get_image_features(pixel_values=pixel_values).pooler_output
        return features, F.normalize(features, dim=-1)


class TextTower(nn.Module):
    """Tokens to projected features and unit vectors, `(B, dim)` each.

    Args:
        model: UrbanLN, CLIP or SigLIP.
    """

    def __init__(self, model: Any):
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Encode `(B, length)`."""
        features = self.model.get_text_features(
            input_ids=input_ids, attention_mask=attention_mask
        ).pooler_output
        return features, F.normalize(features, dim=-1)


def make_tower(model: Any, name: str) -> nn.Module:
    """One of the towers, in eval mode."""
    return (VisionTower(model) if name == VISION else TextTower(model)).eval()


def sample_inputs(model: Any, name: str, batch: int, length: int, seed: int) -> dict[str, Tensor]:
    """Inputs as the processor makes them: noise of the right size, or ids that end and are padded.

    Args:
        model: UrbanLN, CLIP or SigLIP.
        name: of the tower.
        batch: rows.
        length: tokens.
        seed: of the noise.
    """
    generator = torch.Generator().manual_seed(seed)
    if name == VISION:
        size = model.config.vision_config.image_size
        return {"pixel_values": torch.randn(batch, 3, size, size, generator=generator)}
    text = model.config.text_config
    ids = torch.randint(1, text.vocab_size - 2, (batch, length), generator=generator)
    mask = torch.ones_like(ids)
    for row in range(batch):
        # texts of a batch end at different places
        end = length - 1 - row * (length - 2) // max(batch, 1)
        ids[row, end:] = text.eos_token_id
        mask[row, end + 1 :] = 0
    return {"input_ids": ids, "attention_mask": mask}


__all__ = ["INPUTS", "OUTPUTS", "TEXT", "VISION", "make_tower", "sample_inputs"]
