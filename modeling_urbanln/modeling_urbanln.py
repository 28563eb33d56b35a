"""UrbanLN: CLIP with long text, and its pretraining by momentum self-distillation.

Paper: https://arxiv.org/abs/2511.07062. Only the difference to CLIP is written here.
"""

import torch
from torch import nn
from torch.nn import functional as F
from transformers import CLIPModel
from transformers.models.clip.modeling_clip import (
    CLIPOutput,
    CLIPTextEmbeddings,
    image_text_contrastive_loss,
)
from transformers.utils import can_return_tuple

from .clip_checkpoints import load_clip, remedy, true_eos_token_id
from .configuration_urbanln import UrbanLNConfig
from .distillation_urbanln import MomentumDistillationMixin, UrbanLNForPreTrainingOutput
from .pipeline_urbanln import TASK  # noqa: F401 - so that a saved folder carries the pipeline
from .positional import stretch_position_embeddings


class UrbanLNTextEmbeddings(CLIPTextEmbeddings):
    """CLIP's text embeddings whose first positions can be kept out of training.

    The gradient is cut in the forward pass: a gradient hook would be lost when `from_pretrained` or
    `deepcopy` replaces the parameter.
    """

    num_frozen_positions = 0

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Token plus position embeddings, `(batch, length, hidden_size)`."""
        if inputs_embeds is None:
            inputs_embeds = self.token_embedding(input_ids)
        embeddings = super().forward(position_ids=position_ids, inputs_embeds=inputs_embeds)
        if self.num_frozen_positions == 0:
            return embeddings
        if position_ids is None:
            position_ids = self.position_ids[:, : inputs_embeds.shape[1]]
        frozen = (position_ids < self.num_frozen_positions).unsqueeze(-1)
        without_gradient = inputs_embeds + self.position_embedding(position_ids).detach()
        return torch.where(frozen, without_gradient, embeddings)


class UrbanLNModel(CLIPModel):
    """CLIP with stretched text positions; takes images, texts, or both.

    A saved folder loads with `AutoModel.from_pretrained(folder, trust_remote_code=True)`, also
    where this package is not installed.

    Examples:
        >>> from modeling_urbanln import UrbanLNModel, UrbanLNProcessor
        >>> model = UrbanLNModel.from_clip_pretrained("openai/clip-vit-base-patch16")
        >>> processor = UrbanLNProcessor.from_clip_pretrained("openai/clip-vit-base-patch16")
        >>> inputs = processor(text=["a wide street"], images=[image], return_tensors="pt")
        >>> model(**inputs).logits_per_image.shape
        torch.Size([1, 1])
    """

    config_class = UrbanLNConfig
    config: UrbanLNConfig
    _no_split_modules = ["UrbanLNTextEmbeddings", "CLIPEncoderLayer", "CLIPVisionEmbeddings"]  # noqa: RUF012
    _keys_to_ignore_on_load_unexpected = [r"^momentum_encoder\.", r"^queue\."]  # noqa: RUF012

    def __init__(self, config: UrbanLNConfig):
        super().__init__(config)
        embeddings = UrbanLNTextEmbeddings(config.text_config)
        if config.freeze_preserved_positions:
            embeddings.num_frozen_positions = config.num_preserved_positions
        self.text_model.embeddings = embeddings
        self.post_init()

    @classmethod
    def from_clip_pretrained(
        cls,
        name_or_path_or_model: "str | CLIPModel",
        *,
        num_preserved: int = 20,
        ratio: int = 4,
        mode: str = "ipsi",
        **config_overrides,
    ) -> "UrbanLNModel":
        """Build the model from any CLIP checkpoint in Hugging Face form, stretching its positions.

        Args:
            name_or_path_or_model: Hub id, local folder, or a `CLIPModel`, which is not changed. An
                UrbanLN checkpoint is not accepted: its positions are stretched already.
            num_preserved: see [`stretch_position_embeddings`].
            ratio: see [`stretch_position_embeddings`].
            mode: see [`stretch_position_embeddings`]; `"none"` keeps the positions as they are
                (for longer text that means truncation).
            **config_overrides: further fields of [`UrbanLNConfig`].

        Raises:
            ValueError: the checkpoint is of another architecture, or some of its weights are
                missing or do not fit.
        """
        clip = name_or_path_or_model
        if not isinstance(clip, nn.Module):
            clip = load_clip(clip)
        if not isinstance(clip, CLIPModel) or isinstance(clip, UrbanLNModel):
            raise ValueError(
                f"`from_clip_pretrained` needs a CLIPModel, got {type(clip).__name__}. "
                f"{remedy(is_stretched=isinstance(clip, UrbanLNModel))}"
            )
        state = dict(clip.state_dict())
        key = "text_model.embeddings.position_embedding.weight"
        if mode != "none":
            state[key] = stretch_position_embeddings(state[key], num_preserved, ratio, mode)
        fields = clip.config.to_dict()
        for name in ("model_type", "architectures", "auto_map", "transformers_version"):
            fields.pop(name, None)
        text_config = fields["text_config"]
        text_config["max_position_embeddings"] = state[key].shape[0]
        text_config["eos_token_id"] = true_eos_token_id(text_config)
        fields |= {
            "num_preserved_positions": num_preserved,
            "position_ratio": ratio,
            "position_mode": mode,
        }
        model = cls(UrbanLNConfig(**{**fields, **config_overrides})).to(clip.dtype)
        model.load_base_state_dict(state)
        return model

    def load_base_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Load the weights of both towers and their projections, strictly."""
        self.load_state_dict(state, strict=True)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        return_loss: bool | None = None,
        interpolate_pos_encoding: bool = False,
        **kwargs,
    ) -> CLIPOutput:
        """Embed images, texts, or both; what belongs to a missing side is None.

        Args:
            input_ids: `(text_batch, length)`, at most 248 tokens.
            pixel_values: `(image_batch, 3, height, width)`.
            attention_mask: `(text_batch, length)`.
            position_ids: `(text_batch, length)`, 0, 1, 2, ... where not given.
            return_loss: also return CLIP's symmetric contrastive loss (needs both sides).
            interpolate_pos_encoding: accept images of another size than the configured one.
            **kwargs: passed on to both towers (`output_hidden_states`, ...); `return_dict=False`
                returns a tuple.

        Returns:
            `CLIPOutput`: `image_embeds` and `text_embeds` of shape `(batch, projection_dim)`,
            L2-normalised; `logits_per_image` of shape `(image_batch, text_batch)`.

        Raises:
            ValueError: neither side is given, or `return_loss` with only one.
        """
        if input_ids is None and pixel_values is None:
            raise ValueError("UrbanLNModel needs `pixel_values`, `input_ids` or both; got neither.")
        if return_loss and (input_ids is None or pixel_values is None):
            raise ValueError("`return_loss=True` needs both `pixel_values` and `input_ids`.")
        vision_output = text_output = image_embeds = text_embeds = None
        if pixel_values is not None:
            vision_output = self.get_image_features(
                pixel_values, interpolate_pos_encoding=interpolate_pos_encoding, **kwargs
            )
            image_embeds = F.normalize(vision_output.pooler_output, dim=-1)
        if input_ids is not None:
            text_output = self.get_text_features(
                input_ids, attention_mask=attention_mask, position_ids=position_ids, **kwargs
            )
            text_embeds = F.normalize(text_output.pooler_output, dim=-1)
        logits_per_image = logits_per_text = loss = None
        if image_embeds is not None and text_embeds is not None:
            logits_per_text = self.logit_scale.exp() * text_embeds @ image_embeds.T
            logits_per_image = logits_per_text.T
            loss = image_text_contrastive_loss(logits_per_text) if return_loss else None
        return CLIPOutput(
            loss=loss,
            logits_per_image=logits_per_image,
            logits_per_text=logits_per_text,
            text_embeds=text_embeds,
            image_embeds=image_embeds,
            text_model_output=text_output,
            vision_model_output=vision_output,
        )


class UrbanLNForPreTraining(MomentumDistillationMixin, UrbanLNModel):
    """UrbanLN with its momentum twin and two queues (student, teacher, keys).

    `forward` changes no state. The training loop calls `clamp_logit_scale_()` and
    `update_momentum_encoder()` after `optimizer.step()`, and `enqueue(...)` after each batch.
    `to_base()` is what is published: twin and queues stay in training checkpoints.

    Example:
        >>> model = UrbanLNForPreTraining.from_clip_pretrained("openai/clip-vit-base-patch16")
        >>> output = model(**inputs, sample_ids=ids)
        >>> output.loss.backward(); optimizer.step()
        >>> model.clamp_logit_scale_(); model.update_momentum_encoder()
        >>> model.enqueue(output.image_embeds_m, output.text_embeds_m, ids)
    """

    base_class = UrbanLNModel


__all__ = ["UrbanLNForPreTraining", "UrbanLNForPreTrainingOutput", "UrbanLNModel"]
