"""UrbanLN: CLIP with long text, pretrained by momentum self-distillation.

Paper: https://arxiv.org/abs/2511.07062.
"""

from transformers import CLIPModel
from transformers.models.clip.modeling_clip import CLIPTextEmbeddings

from .configuration_urbanln import UrbanLNConfig
from .distillation_urbanln import MomentumDistillationMixin, UrbanLNForPreTrainingOutput
from .long_text import FrozenPositionsMixin, LongTextMixin
from .pipeline_urbanln import TASK  # noqa: F401 - save_pretrained copies imported modules


class UrbanLNTextEmbeddings(FrozenPositionsMixin, CLIPTextEmbeddings):
    """CLIP text embeddings whose first positions can be excluded from training."""


class UrbanLNModel(LongTextMixin, CLIPModel):
    """CLIP with stretched text positions, for images, texts or both.

    A saved folder loads with `AutoModel.from_pretrained(folder, trust_remote_code=True)`, without
    this package.

    Example:
        >>> from modeling_urbanln import UrbanLNModel, UrbanLNProcessor
        >>> model = UrbanLNModel.from_clip_pretrained("openai/clip-vit-base-patch16")
        >>> processor = UrbanLNProcessor.from_clip_pretrained("openai/clip-vit-base-patch16")
        >>> inputs = processor(text=["a wide street"], images=[image], return_tensors="pt")
        >>> model(**inputs).logits_per_image.shape
        torch.Size([1, 1])
    """

    config_class = UrbanLNConfig
    config: UrbanLNConfig
    source_class, source_positions = CLIPModel, 77
    embeddings_class = UrbanLNTextEmbeddings
    _no_split_modules = ["UrbanLNTextEmbeddings", "CLIPEncoderLayer", "CLIPVisionEmbeddings"]  # noqa: RUF012


class UrbanLNForPreTraining(MomentumDistillationMixin, UrbanLNModel):
    """UrbanLN with a momentum encoder and two embedding queues.

    `forward` changes no state. The training loop calls `clamp_logit_scale_()` and
    `update_momentum_encoder()` after `optimizer.step()`, and `enqueue(...)` after each batch.
    `to_base()` returns the model to publish, without momentum encoder and queues.

    Example:
        >>> model = UrbanLNForPreTraining.from_clip_pretrained("openai/clip-vit-base-patch16")
        >>> output = model(**inputs, sample_ids=ids)
        >>> output.loss.backward(); optimizer.step()
        >>> model.clamp_logit_scale_(); model.update_momentum_encoder()
        >>> model.enqueue(output.image_embeds_m, output.text_embeds_m, ids)
    """

    base_class = UrbanLNModel


__all__ = ["UrbanLNForPreTraining", "UrbanLNForPreTrainingOutput", "UrbanLNModel"]
