"""Momentum self-distillation of a dual encoder (ALBEF, https://arxiv.org/abs/2107.07651)."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed, nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.utils import ModelOutput

from .losses import in_batch_loss, momentum_distillation_losses, positive_targets
from .momentum import (
    NOT_STARTED,
    UNKNOWN_ID,
    EmbeddingQueue,
    MomentumKeys,
    gather_without_gradient,
    is_distributed,
    update_momentum_,
)

MIN_LOG_SCALE, MAX_LOG_SCALE = 0.0, math.log(100.0)  # 1 / tau in [1, 100], as CLIP
TWIN, QUEUE = "momentum_encoder", "queue"


@dataclass
class UrbanLNForPreTrainingOutput(ModelOutput):
    """Output of the pretraining models.

    Embeddings have shape `(batch_size, projection_dim)` and are L2-normalised. With
    `contrastive_keys="student"`, the fields after `text_embeds` and `distillation_loss` are None.

    Attributes:
        loss: `(1 - mu) * contrastive_loss + mu * distillation_loss`, equation (6).
        contrastive_loss: Contrastive loss, equation (4), or CLIP's in-batch loss with
            `contrastive_keys="student"`.
        distillation_loss: Distillation loss, equation (5).
        logits_per_image: Image-text similarities of the student divided by tau, of shape
            `(batch_size, batch_size)`.
        logits_per_text: Transpose of `logits_per_image`.
        image_embeds: Image embeddings of the student.
        text_embeds: Text embeddings of the student.
        image_embeds_m: Image embeddings of the teacher, without gradient.
        text_embeds_m: Text embeddings of the teacher, without gradient.
        target_entropy: Mean entropy of the pseudo-targets in nats.
    """

    loss: torch.Tensor | None = None
    contrastive_loss: torch.Tensor | None = None
    distillation_loss: torch.Tensor | None = None
    logits_per_image: torch.Tensor | None = None
    logits_per_text: torch.Tensor | None = None
    image_embeds: torch.Tensor | None = None
    text_embeds: torch.Tensor | None = None
    image_embeds_m: torch.Tensor | None = None
    text_embeds_m: torch.Tensor | None = None
    target_entropy: torch.Tensor | None = None


class MomentumDistillationMixin(nn.Module):
    """Adds a momentum encoder, two embedding queues and their loss to a dual encoder.

    The mixin precedes the encoder class among the bases. The encoder needs `get_image_features`,
    `get_text_features` and `logit_scale`; its configuration needs `projection_dim` and
    [`SelfDistillationFields`].

    Attributes:
        base_class: Class of the encoder, the momentum encoder and the published model.

    Example:
        >>> class NewForPreTraining(MomentumDistillationMixin, NewModel):
        ...     base_class = NewModel
    """

    base_class: type
    config: Any
    logit_scale: Any
    queue: Any
    post_init: Any
    _keys_to_ignore_on_load_missing = [rf"^{TWIN}\.", rf"^{QUEUE}\."]  # noqa: RUF012
    _keys_to_ignore_on_load_unexpected: list[str] = []  # noqa: RUF012

    def __init__(self, config: Any):
        super().__init__(config)
        self.momentum_encoder = self.base_class(config)
        self.queue = EmbeddingQueue(config.queue_size, config.projection_dim)
        self.post_init()
        self.reset_momentum_encoder()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        """Load a checkpoint; if it has no momentum encoder, the teacher starts as a copy."""
        loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        if not model.queue.started:
            model.reset_momentum_encoder()
        model.momentum_encoder.requires_grad_(False).eval()
        return loaded

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, EmbeddingQueue):  # a published checkpoint has none
            for name in ("image_queue", "text_queue", "queue_ptr"):
                init.zeros_(getattr(module, name))
            init.constant_(module.id_queue, UNKNOWN_ID)
            init.constant_(module.queue_fill, NOT_STARTED)

    def load_base_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Load the weights of the student strictly and copy them to the teacher."""
        missing, unexpected = self.load_state_dict(state, strict=False)
        missing = [key for key in missing if key.split(".")[0] not in (TWIN, QUEUE)]
        if missing or unexpected:
            raise ValueError(
                f"The weights do not match the model: missing {missing[:5]}, unexpected "
                f"{unexpected[:5]}."
            )
        self.reset_momentum_encoder()

    def to_base(self) -> Any:
        """Return the model to publish: a `base_class` that shares the student's weights."""
        with torch.device("meta"):  # every weight is replaced by the student's
            base = self.base_class(self.config)
        for name, module in self.named_children():
            if name not in (TWIN, QUEUE):
                setattr(base, name, module)
        own = (*self.named_parameters(recurse=False), *self.named_buffers(recurse=False))
        for name, tensor in own:
            setattr(base, name, tensor)
        return base.train(self.training)

    def train(self, mode: bool = True) -> "MomentumDistillationMixin":
        """Set the mode of the student; the teacher stays in evaluation mode."""
        super().train(mode)
        self.momentum_encoder.eval()
        return self

    def _paired_parameters(self) -> Iterator[tuple[nn.Parameter, nn.Parameter]]:
        teacher = dict(self.momentum_encoder.named_parameters())
        for name, parameter in self.named_parameters():
            if name.split(".")[0] != TWIN:
                yield parameter, teacher[name]

    def reset_momentum_encoder(self) -> None:
        """Copy the student's weights to the teacher and clear the queues."""
        student, teacher = zip(*self._paired_parameters(), strict=True)
        update_momentum_(student, teacher, momentum=0.0)
        self.momentum_encoder.requires_grad_(False).eval()
        self.queue.clear()

    def update_momentum_encoder(self) -> None:
        """Update the teacher's moving average. Call it after `optimizer.step()`."""
        student, teacher = zip(*self._paired_parameters(), strict=True)
        update_momentum_(student, teacher, self.config.momentum)

    @torch.no_grad()
    def clamp_logit_scale_(self) -> None:
        """Clamp 1 / tau to [1, 100]. Call it after `optimizer.step()`."""
        self.logit_scale.clamp_(MIN_LOG_SCALE, MAX_LOG_SCALE)

    def enqueue(
        self,
        image_embeds_m: torch.Tensor,
        text_embeds_m: torch.Tensor,
        sample_ids: torch.Tensor | None = None,
    ) -> None:
        """Add the teacher's embeddings of the batch, gathered over all processes, to the queues.

        Args:
            image_embeds_m: Image embeddings of shape `(batch_size, projection_dim)`.
            text_embeds_m: Text embeddings of shape `(batch_size, projection_dim)`.
            sample_ids: Sample ids of shape `(batch_size,)`. If None, the entries are positives of
                no later sample.
        """
        self.queue.enqueue(_gather(image_embeds_m, text_embeds_m, sample_ids))

    @staticmethod
    def embed(
        encoder: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        pixel_values: torch.Tensor,
        **kwargs,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """L2-normalised image and text embeddings, each float32 of shape `(batch_size, dim)`."""
        image = encoder.get_image_features(pixel_values, **kwargs).pooler_output
        text = encoder.get_text_features(
            input_ids, attention_mask=attention_mask, **kwargs
        ).pooler_output
        return F.normalize(image.float(), dim=-1), F.normalize(text.float(), dim=-1)

    @torch.no_grad()
    def encode_momentum(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        pixel_values: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Image and text embeddings of the teacher, each float32 of shape `(batch_size, dim)`."""
        return self.embed(self.momentum_encoder, input_ids, attention_mask, pixel_values)

    @torch.no_grad()
    def encode_momentum_keys(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        pixel_values: torch.Tensor,
        sample_ids: torch.Tensor | None = None,
    ) -> MomentumKeys:
        """Teacher embeddings of the batch, gathered over all processes.

        Samples interact only through these keys. If every `forward` of an accumulation window gets
        the keys of all its micro-batches, joined by `MomentumKeys.concatenate`, the accumulated
        gradient equals that of one large batch.
        """
        embeds = self.encode_momentum(input_ids, attention_mask, pixel_values)
        return _gather(*embeds, sample_ids)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        sample_ids: torch.Tensor | None = None,
        momentum_keys: MomentumKeys | None = None,
        key_offset: int | None = None,
        distillation_weight: float | None = None,
        **kwargs,
    ) -> UrbanLNForPreTrainingOutput:
        """Compute the loss of a batch of image-text pairs. Changes neither teacher nor queues.

        Args:
            input_ids: Token ids of shape `(batch_size, length)`.
            attention_mask: Attention mask of shape `(batch_size, length)`.
            pixel_values: Images of shape `(batch_size, 3, height, width)`.
            sample_ids: Sample ids of shape `(batch_size,)`, int64. Keys of equal id, in the batch
                and in the queues, are positives of one another; -1 is unknown. If None, the only
                positive of a query is the key of its own pair.
            momentum_keys: Keys that replace, and contain, those of this batch; see
                [`encode_momentum_keys`].
            key_offset: Index of the first key of this batch in `momentum_keys`.
            distillation_weight: Weight mu at this step. Defaults to `config.distillation_weight`.
            **kwargs: Passed to both towers.

        Raises:
            ValueError: If images or texts are missing, or `sample_ids` or the keys do not match
                the batch.
        """
        self._check_inputs(input_ids, pixel_values, sample_ids, momentum_keys, key_offset)
        image_embeds, text_embeds = self.embed(
            self, input_ids, attention_mask, pixel_values, **kwargs
        )
        # float32: autocast would round similarities that 1 / tau then multiplies by up to 100
        with torch.autocast(image_embeds.device.type, enabled=False):
            logits_per_image = _clamped_scale(self.logit_scale) * image_embeds @ text_embeds.T
        student = {
            "logits_per_image": logits_per_image,
            "logits_per_text": logits_per_image.T,
            "image_embeds": image_embeds,
            "text_embeds": text_embeds,
        }
        if self.config.contrastive_keys == "student":
            loss = in_batch_loss(logits_per_image, _known_ids(sample_ids, image_embeds))
            return UrbanLNForPreTrainingOutput(loss=loss, contrastive_loss=loss, **student)

        batch_size = image_embeds.shape[0]
        if momentum_keys is None or key_offset is None:
            image_m, text_m = self.encode_momentum(input_ids, attention_mask, pixel_values)
            momentum_keys = _gather(image_m, text_m, sample_ids)
            rank = distributed.get_rank() if is_distributed() else 0
            key_offset = rank * batch_size
        else:
            own = slice(key_offset, key_offset + batch_size)
            image_m, text_m = momentum_keys.image[own], momentum_keys.text[own]
        keys = MomentumKeys.concatenate([momentum_keys, self.queue.keys()])
        targets = positive_targets(
            keys.ids.shape[0], key_offset, _known_ids(sample_ids, image_m), keys.ids
        )
        mu = self.config.distillation_weight if distillation_weight is None else distillation_weight
        with torch.autocast(image_embeds.device.type, enabled=False):
            student_keys = None
            if self.config.contrastive_keys == "both":
                student_keys = (
                    _with_own(keys.image, image_embeds, key_offset),
                    _with_own(keys.text, text_embeds, key_offset),
                )
            losses = momentum_distillation_losses(
                image_embeds,
                text_embeds,
                image_m,
                text_m,
                keys.image,
                keys.text,
                targets,
                _clamped_scale(self.logit_scale),
                student_keys,
            )
            loss = (1 - mu) * losses["contrastive_loss"] + mu * losses["distillation_loss"]
        return UrbanLNForPreTrainingOutput(
            loss=loss, image_embeds_m=image_m, text_embeds_m=text_m, **student, **losses
        )

    @staticmethod
    def _check_inputs(input_ids, pixel_values, sample_ids, momentum_keys, key_offset) -> None:
        if input_ids is None or pixel_values is None:
            raise ValueError("Pretraining needs both `input_ids` and `pixel_values`.")
        if input_ids.shape[0] != pixel_values.shape[0]:
            raise ValueError(
                f"Pretraining needs as many texts as images, got {input_ids.shape[0]} texts and "
                f"{pixel_values.shape[0]} images."
            )
        if sample_ids is not None and sample_ids.shape != input_ids.shape[:1]:
            raise ValueError(
                f"`sample_ids` must have shape ({input_ids.shape[0]},), got "
                f"{tuple(sample_ids.shape)}."
            )
        if (momentum_keys is None) != (key_offset is None):
            raise ValueError("Pass `momentum_keys` and `key_offset` together; got only one.")


def _clamped_scale(logit_scale: torch.Tensor) -> torch.Tensor:
    """1 / tau, clamped with a straight-through gradient so that it can return into the bounds."""
    log_scale = logit_scale.float()
    excess = (log_scale.clamp(MIN_LOG_SCALE, MAX_LOG_SCALE) - log_scale).detach()
    return (log_scale + excess).exp()


def _with_own(keys: torch.Tensor, own: torch.Tensor, offset: int) -> torch.Tensor:
    """Replace the keys of this batch by the student's, which have a gradient."""
    return torch.cat([keys[:offset], own, keys[offset + own.shape[0] :]])


def _known_ids(sample_ids: torch.Tensor | None, like: torch.Tensor) -> torch.Tensor:
    if sample_ids is None:
        return torch.full((like.shape[0],), UNKNOWN_ID, dtype=torch.int64, device=like.device)
    return sample_ids.to(device=like.device, dtype=torch.int64)


def _gather(
    image_m: torch.Tensor, text_m: torch.Tensor, sample_ids: torch.Tensor | None
) -> MomentumKeys:
    ids = _known_ids(sample_ids, image_m)
    return MomentumKeys(
        image=gather_without_gradient(image_m),
        text=gather_without_gradient(text_m),
        ids=gather_without_gradient(ids),
    )


__all__ = ["MomentumDistillationMixin", "UrbanLNForPreTrainingOutput"]
