"""UrbanLN on SigLIP 2.

The 64 text positions of SigLIP 2 become 196, as in FG-CLIP 2
(https://github.com/360CVGroup/FG-CLIP, `fgclip2.py`).
"""

from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch.nn import functional as F
from transformers import SiglipConfig, SiglipModel
from transformers.models.siglip.modeling_siglip import SiglipTextEmbeddings

from .configuration_urbanln import SelfDistillationFields
from .distillation_urbanln import MomentumDistillationMixin
from .long_text import FrozenPositionsMixin, LongTextMixin
from .pipeline_urbanln import TASK  # noqa: F401 - save_pretrained copies imported modules


@strict
class UrbanLNSiglipConfig(SelfDistillationFields, SiglipConfig):
    """Configuration of [`UrbanLNSiglipModel`] and [`UrbanLNSiglipForPreTraining`].

    Takes the arguments of `SiglipConfig` and of [`SelfDistillationFields`].
    """

    # must not contain "siglip": the zero-shot pipeline of transformers would apply a sigmoid to the
    # logits, and this model is trained with a softmax
    model_type = "urbanln_sig"
    task_classes = {  # noqa: RUF012
        "AutoModelForPreTraining": "modeling_urbanln_siglip.UrbanLNSiglipForPreTraining",
        "AutoModelForZeroShotImageClassification": "modeling_urbanln_siglip.UrbanLNSiglipModel",
    }

    @property
    def projection_dim(self) -> int:
        """Embedding dimension; SigLIP has no image projection."""
        vision_config: Any = self.vision_config
        return vision_config.hidden_size


class UrbanLNSiglipTextEmbeddings(FrozenPositionsMixin, SiglipTextEmbeddings):
    """SigLIP text embeddings whose first positions can be excluded from training."""


class UrbanLNSiglipModel(LongTextMixin, SiglipModel):
    """SigLIP 2 with stretched text positions, for images, texts or both.

    It extends `SiglipModel` because SigLIP 2 checkpoints of fixed resolution, such as
    `google/siglip2-base-patch16-224`, have model_type `siglip`; `Siglip2Model` is for NaFlex
    checkpoints.

    Differences from SigLIP and from [`UrbanLNModel`]:

    - `logit_bias` is kept in the weights but not used: it belongs to the sigmoid loss, and a
      softmax is invariant to it.
    - SigLIP pools the last position and reads padding. Texts are therefore padded to all 196
      positions and attention masks are ignored.
    - The last position is extrapolated and attends to more positions than in SigLIP's training.
      Embeddings of short texts therefore change, and the model must be trained before use.

    Example:
        >>> name = "google/siglip2-base-patch16-224"
        >>> model = UrbanLNSiglipModel.from_clip_pretrained(name)  # 64 -> 196 positions
        >>> processor = UrbanLNProcessor.from_clip_pretrained(name)
    """

    config_class = UrbanLNSiglipConfig
    config: UrbanLNSiglipConfig
    source_class, source_positions = SiglipModel, 64
    embeddings_class = UrbanLNSiglipTextEmbeddings
    _no_split_modules = [*SiglipModel._no_split_modules, "UrbanLNSiglipTextEmbeddings"]  # noqa: RUF012

    def __init__(self, config: UrbanLNSiglipConfig):
        super().__init__(config)
        bias = self.logit_bias.detach()
        del self.logit_bias  # unused parameters raise an error in DistributedDataParallel
        self.register_buffer("logit_bias", bias)

    def get_text_features(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        **kwargs,
    ) -> Any:
        """Compute text features over all positions; `attention_mask` is ignored.

        Args:
            input_ids: Token ids of shape `(batch_size, length)`, padded here to
                `max_position_embeddings`.
            attention_mask: Ignored, accepted for compatibility with CLIP.
            position_ids: Position ids of shape `(batch_size, max_position_embeddings)`.
            **kwargs: See `SiglipModel`.
        """
        text_config: Any = self.config.text_config
        missing = max(0, text_config.max_position_embeddings - input_ids.shape[1])
        input_ids = F.pad(input_ids, (0, missing), value=text_config.pad_token_id)
        return super().get_text_features(input_ids, position_ids=position_ids, **kwargs)


class UrbanLNSiglipForPreTraining(MomentumDistillationMixin, UrbanLNSiglipModel):
    """UrbanLN on SigLIP 2 with momentum encoder and queues; see [`UrbanLNForPreTraining`]."""

    base_class = UrbanLNSiglipModel


__all__ = ["UrbanLNSiglipConfig", "UrbanLNSiglipForPreTraining", "UrbanLNSiglipModel"]
