"""UrbanCLIP: contrastive learning and captioning of satellite images (Yan et al., WWW 2024).

https://arxiv.org/abs/2310.18340; code at StupidBuluchacha/UrbanCLIP, whose `main.py` trains
open_clip's `coca_ViT-L-14` with contrastive and caption loss at weight 1 each.
"""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from dataset_builders.files import digest

from ..embed.tables import mean_by_region
from ..errors import InputError
from .base import Provenance, RegionData, View
from .coca import CoCa
from .image_text import (
    ImageTextSettings,
    checkpoint_fingerprint,
    clip_model,
    pixel_values,
    tokenize,
    train_pairs,
)
from .sampling import view_of

ENCODE_BATCH = 128
# a Latin full stop must be followed by whitespace, so that 3.5 is not split
SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])")


@dataclass(frozen=True)
class Settings(ImageTextSettings):
    """Settings of [`UrbanCLIP`], besides those of [`ImageTextSettings`].

    Attributes:
        text: "sentence": one random sentence per caption, drawn once, as in the published code;
            "full": complete captions.
        num_queries: Number of queries of the pooler.
        pooler_heads: Number of attention heads of the pooler.
        decoder_layers: Number of layers of the caption decoder.
        decoder_heads: Number of attention heads of the caption decoder.
        contrastive_weight: Weight of the contrastive loss.
        caption_weight: Weight of the caption loss.
    """

    text: Literal["sentence", "full"] = "sentence"
    num_queries: int = 17
    pooler_heads: int = 4
    decoder_layers: int = 2
    decoder_heads: int = 4
    contrastive_weight: float = 1.0
    caption_weight: float = 1.0


class UrbanCLIP:
    """UrbanCLIP; region vectors are means of projected image embeddings.

    Args:
        settings: Settings of the system.
        seed: Seed of weights, sentences and shuffling.
        device: Device of the model.
    """

    def __init__(self, settings: Settings, seed: int, device: str):
        self.settings, self.seed, self.device = settings, seed, device
        self.name = f"urbanclip-{settings.text}"
        weights = checkpoint_fingerprint(settings.model_name_or_path)
        self.fingerprint = digest("urbanclip-1", asdict(settings), weights, seed)
        self.provenance = Provenance(
            source="Yan et al. 2024 (arXiv 2310.18340), equations of section 4; CoCaLoss of "
            "StupidBuluchacha/UrbanCLIP main.py",
            differs=_differences(settings),
            uses=frozenset({"satellite", "captions"}),
            pretrained=settings.model_name_or_path,
        )
        self.model: CoCa | None = None
        self.losses: list[float] = []

    def fit(self, data: RegionData) -> None:
        """Train on all captioned satellite images.

        Raises:
            InputError: The city has no satellite images, or fewer than two captions.
        """
        view = view_of(data, "satellite", self.name)
        rows = np.array([i for i, caption in enumerate(view.captions) if caption], dtype=np.int64)
        if len(rows) < 2:
            raise InputError(
                f"{self.name} needs captions, and {data.city} has {len(rows)} captioned satellite "
                "images. Caption them first: python -m pipelines.captioning run ..."
            )
        captions = [str(view.captions[i]) for i in rows]
        if self.settings.text == "sentence":
            captions = draw_sentences(captions, self.seed)
        tokens = tokenize(
            captions, self.settings.max_length, self.settings.model_name_or_path is None
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.model = self._build(tokens.vocab_size).to(self.device)

        def loss(batch: torch.Tensor) -> torch.Tensor:
            assert self.model is not None
            losses = self.model.losses(
                self._pixel_values(view, rows[batch.numpy()]), *tokens.batch(batch, self.device)
            )
            return (
                self.settings.contrastive_weight * losses["contrastive_loss"]
                + self.settings.caption_weight * losses["caption_loss"]
            )

        self.losses = train_pairs(self.model, loss, len(rows), self.settings, self.seed, self.name)

    @torch.inference_mode()
    def encode(self, data: RegionData) -> dict[str, NDArray[np.float32]]:
        """Mean projected image embedding of each region, not normalised.

        Raises:
            InputError: The system is not fitted, or the city has no satellite images.
        """
        view = view_of(data, "satellite", self.name)
        if self.model is None:
            raise InputError(f"{self.name} is not fitted: call fit first.")
        vectors = [
            self.model.pool_image(self._pixel_values(view, rows))[0].float().cpu().numpy()
            for rows in np.split(np.arange(len(view)), range(ENCODE_BATCH, len(view), ENCODE_BATCH))
        ]
        pooled = mean_by_region(np.concatenate(vectors), view.region, len(data.region_ids))
        return {"satellite": pooled}

    def _build(self, vocab_size: int) -> CoCa:
        return CoCa(
            clip_model(self.settings, vocab_size),
            self.settings.num_queries,
            self.settings.pooler_heads,
            self.settings.decoder_layers,
            self.settings.decoder_heads,
        )

    def _pixel_values(self, view: View, rows: NDArray[np.int64]) -> torch.Tensor:
        return pixel_values(view.pixels[rows], self.settings.image_size, self.device)


def draw_sentences(captions: Sequence[str], seed: int) -> list[str]:
    """Draw one sentence of each caption, the same for all epochs."""
    generator = np.random.default_rng(seed)
    drawn = []
    for caption in captions:
        sentences = [part.strip() for part in SENTENCE_END.split(caption) if part.strip()]
        drawn.append(str(generator.choice(sentences)) if sentences else caption)
    return drawn


def _differences(settings: Settings) -> tuple[str, ...]:
    differs = [
        "CLIP encoders with a randomly initialised pooler and decoder; the published code starts "
        "from open_clip's CoCa weights.",
        "Texts are pooled at the end token instead of an added class token.",
        "Trained on all images for all epochs, without validation split.",
    ]
    if settings.model_name_or_path is None:
        differs.append(
            "A small model trained from scratch, with the vocabulary of the captions, instead of "
            "pretrained weights."
        )
    if settings.text == "full":
        differs.append(
            f"Complete captions of up to {settings.max_length} tokens; the published code uses one "
            "random sentence of each."
        )
    return tuple(differs)


SYSTEM = UrbanCLIP

__all__ = ["SYSTEM", "Settings", "UrbanCLIP", "draw_sentences"]
