"""Momentum self-distillation of a dual encoder: its twin, the queues and the loss (ALBEF)."""

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
    """Output of a pretraining model; B pairs, D dimensions, embeddings L2-normalised.

    Attributes:
        loss: `(1 - mu) * contrastive_loss + mu * distillation_loss` (equation 6).
        contrastive_loss: L_C, equation (4); with `contrastive_keys="student"` CLIP's in-batch loss.
        distillation_loss: L_D, equation (5). This and what comes from the teacher is None with
            `contrastive_keys="student"`.
        logits_per_image: `(B, B)`, student images against student texts over tau.
        logits_per_text: `(B, B)`, its transpose.
        image_embeds: `(B, D)`, student.
        text_embeds: `(B, D)`, student.
        image_embeds_m: `(B, D)`, teacher, no gradient.
        text_embeds_m: `(B, D)`, teacher, no gradient.
        target_entropy: entropy of the pseudo-targets in nats; near 0 they are almost one-hot.
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
    """Adds a momentum twin, two queues and their loss to a dual encoder of transformers.

    It comes before the encoder among the bases and needs of it `get_image_features`,
    `get_text_features` and `logit_scale`, and of its configuration [`SelfDistillationFields`] and
    `projection_dim`, the width of the embeddings:

        class NewForPreTraining(MomentumDistillationMixin, NewModel):
            base_class = NewModel

    Attributes:
        base_class: Class of the encoder, which is also that of the twin and of what is published.
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
        """As in transformers; without a twin in the checkpoint, it starts as the student's copy."""
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
        """Load the weights of the student, strictly; the teacher becomes its copy."""
        missing, unexpected = self.load_state_dict(state, strict=False)
        missing = [key for key in missing if key.split(".")[0] not in (TWIN, QUEUE)]
        if missing or unexpected:
            raise ValueError(
                f"These weights do not fit: missing {missing[:5]}, unexpected {unexpected[:5]}."
            )
        self.reset_momentum_encoder()

    def to_base(self) -> Any:
        """The model to publish, a `base_class` without twin and queue; shares the weights."""
        with torch.device("meta"):  # a shell: every weight is replaced by the student's
            base = self.base_class(self.config)
        for name, module in self.named_children():
            if name not in (TWIN, QUEUE):
                setattr(base, name, module)
        own = (*self.named_parameters(recurse=False), *self.named_buffers(recurse=False))
        for name, tensor in own:
            setattr(base, name, tensor)
        return base.train(self.training)

    def train(self, mode: bool = True) -> "MomentumDistillationMixin":
        """Set the mode of the student; the teacher stays in eval."""
        super().train(mode)
        self.momentum_encoder.eval()
        return self

    def _paired_parameters(self) -> Iterator[tuple[nn.Parameter, nn.Parameter]]:
        teacher = dict(self.momentum_encoder.named_parameters())
        for name, parameter in self.named_parameters():
            if name.split(".")[0] != TWIN:
                yield parameter, teacher[name]

    def reset_momentum_encoder(self) -> None:
        """Make the teacher a frozen copy of the student, and forget the old teacher's keys."""
        student, teacher = zip(*self._paired_parameters(), strict=True)
        update_momentum_(student, teacher, momentum=0.0)
        self.momentum_encoder.requires_grad_(False).eval()
        self.queue.clear()

    def update_momentum_encoder(self) -> None:
        """Move the teacher towards the student by `config.momentum`; after `optimizer.step()`."""
        student, teacher = zip(*self._paired_parameters(), strict=True)
        update_momentum_(student, teacher, self.config.momentum)

    @torch.no_grad()
    def clamp_logit_scale_(self) -> None:
        """Keep 1 / tau in [1, 100]; after `optimizer.step()`."""
        self.logit_scale.clamp_(MIN_LOG_SCALE, MAX_LOG_SCALE)

    def enqueue(
        self,
        image_embeds_m: torch.Tensor,
        text_embeds_m: torch.Tensor,
        sample_ids: torch.Tensor | None = None,
    ) -> None:
        """Put the teacher's embeddings of this batch, over all processes, in the queue.

        Args:
            image_embeds_m: `(B, D)`, from the output of `forward`.
            text_embeds_m: `(B, D)`.
            sample_ids: `(B,)`; without them the entries are nobody's positives.
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
        """L2-normalised image and text embeddings of student or teacher, `(B, D)`, float32."""
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
        """The teacher's image and text embeddings of this batch, each `(B, D)`, float32."""
        return self.embed(self.momentum_encoder, input_ids, attention_mask, pixel_values)

    @torch.no_grad()
    def encode_momentum_keys(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        pixel_values: torch.Tensor,
        sample_ids: torch.Tensor | None = None,
    ) -> MomentumKeys:
        """The teacher's keys of this batch over all processes.

        Samples interact only through these keys. The keys of all micro-batches of an accumulation
        window, joined by `MomentumKeys.concatenate` and given to each `forward`, therefore make
        the accumulated gradient exactly that of one large batch.
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
        """The loss of a batch of B image-text pairs; changes neither teacher nor queue.

        Args:
            input_ids: `(B, length)`.
            attention_mask: `(B, length)`.
            pixel_values: `(B, 3, height, width)`.
            sample_ids: `(B,)` int64. Keys of equal id are positives of one another, in the batch
                and in the queue; -1 is unknown. None: only a pair's own key is its positive.
            momentum_keys: keys to use in place of this batch's own (see
                [`encode_momentum_keys`]); they must contain them.
            key_offset: where this batch's own keys start in `momentum_keys`.
            distillation_weight: mu of this step, `config.distillation_weight` where None.
            **kwargs: passed on to both towers.

        Raises:
            ValueError: a side is missing, or `sample_ids` or the keys do not fit the batch.
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
        mu = self.config.distillation_weight if distillation_weight is None else distillation_weight
        with torch.autocast(image_embeds.device.type, enabled=False):
            losses = self._losses(
                image_embeds, text_embeds, image_m, text_m, momentum_keys, key_offset, sample_ids
            )
            loss = (1 - mu) * losses["contrastive_loss"] + mu * losses["distillation_loss"]
        return UrbanLNForPreTrainingOutput(
            loss=loss, image_embeds_m=image_m, text_embeds_m=text_m, **student, **losses
        )

    def _losses(
        self,
        image_embeds: torch.Tensor,
        text_embeds: torch.Tensor,
        image_m: torch.Tensor,
        text_m: torch.Tensor,
        momentum_keys: MomentumKeys,
        key_offset: int,
        sample_ids: torch.Tensor | None,
    ) -> dict[str, torch.Tensor]:
        """The parts of the loss against the given keys and the queue's."""
        keys = MomentumKeys.concatenate([momentum_keys, self.queue.keys()])
        query_ids = _known_ids(sample_ids, image_m)
        targets = positive_targets(keys.ids.shape[0], key_offset, query_ids, keys.ids)
        scale = _clamped_scale(self.logit_scale)
        student_keys = None
        if self.config.contrastive_keys == "both":
            student_keys = (
                _with_own(keys.image, image_embeds, key_offset),
                _with_own(keys.text, text_embeds, key_offset),
            )
        return momentum_distillation_losses(
            image_embeds,
            text_embeds,
            image_m,
            text_m,
            keys.image,
            keys.text,
            targets,
            scale,
            student_keys,
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
            raise ValueError("`momentum_keys` and `key_offset` go together; got only one of them.")


def _clamped_scale(logit_scale: torch.Tensor) -> torch.Tensor:
    """1 / tau, within its bounds; the gradient passes, so that a scale beyond them can return."""
    log_scale = logit_scale.float()
    excess = (log_scale.clamp(MIN_LOG_SCALE, MAX_LOG_SCALE) - log_scale).detach()
    return (log_scale + excess).exp()


def _with_own(keys: torch.Tensor, own: torch.Tensor, offset: int) -> torch.Tensor:
    """The keys with those of this batch replaced by the student's, which carry a gradient."""
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
