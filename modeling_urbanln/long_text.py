"""Long text for dual encoders."""

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
    """Excludes the first text positions of CLIP or SigLIP from training.

    The gradient is cut in the forward pass because a gradient hook would be lost when
    `from_pretrained` or `deepcopy` replaces the parameter.
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
        """Sum of token and position embeddings, of shape `(batch_size, length, hidden_size)`."""
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
    """Adds stretched text positions to a dual encoder, which it precedes among the bases.

    Attributes:
        source_class: Class of the dual encoder.
        source_positions: Number of text positions of its unstretched checkpoints.
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
        """Initialise the model from a checkpoint of its dual encoder, stretching the positions.

        Args:
            name_or_path_or_model: Hub id, local folder or model, which is not changed: a
                `CLIPModel` for UrbanLN, a `SiglipModel` for UrbanLNSiglip.
            num_preserved: See [`stretch_position_embeddings`].
            ratio: See [`stretch_position_embeddings`].
            mode: See [`stretch_position_embeddings`]. `"none"` keeps the positions and truncates
                longer texts.
            **config_overrides: Further fields of the configuration.

        Raises:
            ValueError: If the checkpoint has another architecture, missing or mismatched weights,
                or positions that are already stretched.
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
                    f"more than {cls.source_positions}: they are already stretched. Pass "
                    "mode='none' to keep them."
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
        """Load the weights of both towers and their projections strictly."""
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
        """Embed images, texts or both. Outputs of a modality that is not given are None.

        Args:
            input_ids: Token ids of shape `(text_batch_size, length)`.
            pixel_values: Images of shape `(image_batch_size, 3, height, width)`.
            attention_mask: Attention mask of shape `(text_batch_size, length)`.
            position_ids: Position ids of shape `(text_batch_size, length)`.
            return_loss: Whether to return CLIP's symmetric contrastive loss.
            interpolate_pos_encoding: Whether to accept images of another size than configured.
            **kwargs: Passed to both towers, e.g. `output_hidden_states`. With `return_dict=False`
                the output is a tuple.

        Returns:
            `CLIPOutput`: `image_embeds` and `text_embeds` of shape `(batch_size, projection_dim)`,
            L2-normalised; `logits_per_image` of shape `(image_batch_size, text_batch_size)`.

        Raises:
            ValueError: If neither modality is given, or only one with `return_loss`.
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
