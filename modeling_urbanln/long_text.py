"""What UrbanLN adds to a dual encoder of transformers: longer text, and forward of one side."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers.models.clip.modeling_clip import CLIPOutput, image_text_contrastive_loss
from transformers.utils import can_return_tuple

from .clip_checkpoints import load_clip, remedy, true_special_tokens
from .positional import stretch_position_embeddings

POSITIONS = "text_model.embeddings.position_embedding.weight"


class FrozenPositionsMixin(nn.Module):
    """Keeps the first positions of CLIP's or SigLIP's text embeddings out of training.

    The gradient is cut in the forward pass: a gradient hook would be lost when `from_pretrained` or
    `deepcopy` replaces the parameter.
    """

    num_frozen_positions = 0
    token_embedding: Any
    position_embedding: Any
    position_ids: Any

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


class LongTextMixin(nn.Module):
    """Adds stretched text positions to a dual encoder; it comes before it among the bases.

    Attributes:
        source_class: Class of the dual encoder.
        source_positions: Text positions its checkpoints have; a longer table is stretched already.
        embeddings_class: Class of the text embeddings, with frozen positions.
    """

    source_class: Any
    source_positions: int
    embeddings_class: Any
    config_class: Any
    text_model: Any
    logit_scale: Any
    get_image_features: Any
    get_text_features: Any
    post_init: Any
    _keys_to_ignore_on_load_unexpected = [r"^momentum_encoder\.", r"^queue\."]  # noqa: RUF012

    def __init__(self, config: Any):
        super().__init__(config)
        embeddings = self.embeddings_class(config.text_config)
        if config.freeze_preserved_positions:
            embeddings.num_frozen_positions = config.num_preserved_positions
        self.text_model.embeddings = embeddings
        self.post_init()

    @classmethod
    def from_clip_pretrained(
        cls,
        name_or_path_or_model: Any,
        *,
        num_preserved: int = 20,
        ratio: int = 4,
        mode: str = "ipsi",
        **config_overrides,
    ) -> Any:
        """Build the model from any checkpoint of its dual encoder, stretching its positions.

        Args:
            name_or_path_or_model: Hub id, local folder, or a model, which is not changed: a
                `CLIPModel` for UrbanLN, a `SiglipModel` for UrbanLNSiglip. A checkpoint of UrbanLN
                is not accepted: its positions are stretched already.
            num_preserved: see [`stretch_position_embeddings`].
            ratio: see [`stretch_position_embeddings`].
            mode: see [`stretch_position_embeddings`]; `"none"` keeps the positions as they are
                (for longer text that means truncation).
            **config_overrides: further fields of the configuration.

        Raises:
            ValueError: the checkpoint is of another architecture, some of its weights are missing
                or do not fit, or its positions are stretched already.
        """
        source = name_or_path_or_model
        if not isinstance(source, nn.Module):
            source = load_clip(source, model_class=cls.source_class)
        if not isinstance(source, cls.source_class) or isinstance(source, LongTextMixin):
            model_type = getattr(getattr(source, "config", None), "model_type", None)
            raise ValueError(
                f"`{cls.__name__}.from_clip_pretrained` needs a {cls.source_class.__name__}, got "
                f"{type(source).__name__}. {remedy(model_type)}"
            )
        state = dict(source.state_dict())
        if mode != "none":
            if len(state[POSITIONS]) > cls.source_positions:
                raise ValueError(
                    f"This {cls.source_class.__name__} has {len(state[POSITIONS])} text positions, "
                    f"more than the usual {cls.source_positions}: they are stretched already. Keep "
                    "them with mode='none'."
                )
            state[POSITIONS] = stretch_position_embeddings(
                state[POSITIONS], num_preserved, ratio, mode
            )
        fields = source.config.to_dict()
        for name in ("model_type", "architectures", "auto_map", "transformers_version"):
            fields.pop(name, None)
        fields["text_config"] |= {
            "max_position_embeddings": len(state[POSITIONS]),
            **true_special_tokens(fields["text_config"]),
        }
        fields |= {
            "num_preserved_positions": num_preserved,
            "position_ratio": ratio,
            "position_mode": mode,
        }
        model = cls(cls.config_class(**{**fields, **config_overrides})).to(source.dtype)
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
            input_ids: `(text_batch, length)`, at most as long as there are positions.
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
            raise ValueError(
                f"{type(self).__name__} needs `pixel_values`, `input_ids` or both; got neither."
            )
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


__all__ = ["FrozenPositionsMixin", "LongTextMixin"]
