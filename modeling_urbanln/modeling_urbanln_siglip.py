"""UrbanLN on SigLIP 2: the same long text and self-distillation on another dual encoder.

SigLIP 2's 64 text positions become 196 by the same stretch; FG-CLIP 2 stretches them so too
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
from .pipeline_urbanln import TASK  # noqa: F401 - so that a saved folder carries the pipeline


@strict
class UrbanLNSiglipConfig(SelfDistillationFields, SiglipConfig):
    """Configuration of [`UrbanLNSiglipModel`] and [`UrbanLNSiglipForPreTraining`].

    Everything of `SiglipConfig`, and what [`UrbanLNConfig`] adds to CLIP's.
    """

    # without the word siglip: for those, the zero-shot pipeline of transformers takes the sigmoid
    # of the logits, and these are trained for the softmax
    model_type = "urbanln_sig"
    task_classes = {  # noqa: RUF012
        "AutoModelForPreTraining": "modeling_urbanln_siglip.UrbanLNSiglipForPreTraining",
        "AutoModelForZeroShotImageClassification": "modeling_urbanln_siglip.UrbanLNSiglipModel",
    }

    @property
    def projection_dim(self) -> int:
        """Width of the embeddings: SigLIP pools its images without a projection."""
        vision_config: Any = self.vision_config
        return vision_config.hidden_size


class UrbanLNSiglipTextEmbeddings(FrozenPositionsMixin, SiglipTextEmbeddings):
    """SigLIP's text embeddings whose first positions can be kept out of training."""


class UrbanLNSiglipModel(LongTextMixin, SiglipModel):
    """SigLIP 2 with stretched text positions; takes images, texts, or both.

    It builds on `SiglipModel`, not on `Siglip2Model`: the checkpoints of a fixed resolution, such
    as `google/siglip2-base-patch16-224`, are of model_type `siglip`. `Siglip2Model` is for the
    NaFlex checkpoints alone, which take patches of images of any shape.

    What differs from SigLIP, and from UrbanLN on CLIP:

    - `logit_bias` is kept in the weights and unused: it is the sigmoid loss's, and the softmax
      that this model is trained with does not depend on it.
    - SigLIP reads texts at full length, padding included, and pools the last position. So texts
      are padded to all positions here, whatever their length, and attention masks are ignored:
      every text costs 196 tokens.
    - The last position is extrapolated, and the positions it attends to are more than SigLIP was
      trained with: unlike a stretched CLIP, a stretched SigLIP embeds short texts differently,
      and has to be trained before it is used.

    Examples:
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
        del self.logit_bias  # a parameter without gradient would stop several processes
        self.register_buffer("logit_bias", bias)

    def get_text_features(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        **kwargs,
    ) -> Any:
        """The text tower's output, read at full length; `attention_mask` is ignored.

        Args:
            input_ids: `(batch, length)`, padded here to `(batch, max_position_embeddings)`.
            attention_mask: accepted for the sake of CLIP's callers.
            position_ids: `(batch, max_position_embeddings)`, where not 0, 1, 2, ...
            **kwargs: see `SiglipModel`.
        """
        text_config: Any = self.config.text_config
        missing = max(0, text_config.max_position_embeddings - input_ids.shape[1])
        input_ids = F.pad(input_ids, (0, missing), value=text_config.pad_token_id)
        return super().get_text_features(input_ids, position_ids=position_ids, **kwargs)


class UrbanLNSiglipForPreTraining(MomentumDistillationMixin, UrbanLNSiglipModel):
    """UrbanLN on SigLIP 2 with its momentum twin and two queues; see [`UrbanLNForPreTraining`]."""

    base_class = UrbanLNSiglipModel


__all__ = ["UrbanLNSiglipConfig", "UrbanLNSiglipForPreTraining", "UrbanLNSiglipModel"]
