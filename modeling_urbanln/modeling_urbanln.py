"""UrbanLN: CLIP with long text, and its pretraining by momentum self-distillation.

Paper: https://arxiv.org/abs/2511.07062. Only the difference to CLIP is written here.
"""

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import distributed, nn
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel, PreTrainedConfig
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.clip.modeling_clip import (
    CLIPOutput,
    CLIPTextEmbeddings,
    image_text_contrastive_loss,
)
from transformers.utils import ModelOutput, can_return_tuple

from .configuration_urbanln import UrbanLNConfig
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
from .pipeline_urbanln import TASK  # noqa: F401 - so that a saved folder carries the pipeline
from .positional import stretch_position_embeddings

MIN_LOG_SCALE, MAX_LOG_SCALE = 0.0, math.log(100.0)  # 1 / tau in [1, 100], as CLIP
LEGACY_EOS_TOKEN_ID, CLIP_EOS_TOKEN_ID, CLIP_VOCAB_SIZE = 2, 49407, 49408


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
                f"{_remedy(is_stretched=isinstance(clip, UrbanLNModel))}"
            )
        state = dict(clip.state_dict())
        key = "text_model.embeddings.position_embedding.weight"
        if mode != "none":
            state[key] = stretch_position_embeddings(state[key], num_preserved, ratio, mode)
        fields = clip.config.to_dict()
        for name in ("model_type", "architectures", "auto_map", "transformers_version"):
            fields.pop(name, None)
        fields["text_config"]["max_position_embeddings"] = state[key].shape[0]
        _mend_legacy_eos(fields["text_config"])
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


def load_clip(name_or_path: str | os.PathLike, **kwargs) -> CLIPModel:
    """Load a CLIP checkpoint, and refuse one that would leave any weight at random.

    `CLIPModel.from_pretrained` takes the folder of any model, and initialises at random what it
    does not find there.

    Args:
        name_or_path: Hub id or local folder of a `CLIPModel`.
        **kwargs: further arguments of `CLIPModel.from_pretrained`, such as `dtype`.

    Raises:
        OSError: there is no such checkpoint.
        ValueError: the checkpoint is of another architecture, or some of its weights are missing,
            unexpected or of another shape.
    """
    config, _ = PreTrainedConfig.get_config_dict(name_or_path)
    model_type = config.get("model_type")
    if model_type != CLIPConfig.model_type:
        raise ValueError(
            f"{str(name_or_path)!r} is not a CLIP checkpoint: its config.json has model_type "
            f"{model_type!r} and architectures {config.get('architectures')}, where "
            f"{CLIPConfig.model_type!r} and ['CLIPModel'] are needed. "
            f"{_remedy(is_stretched=model_type == UrbanLNConfig.model_type)}"
        )
    clip, report = CLIPModel.from_pretrained(
        name_or_path, output_loading_info=True, ignore_mismatched_sizes=True, **kwargs
    )
    faults = {
        "missing": sorted(report["missing_keys"]),
        "unexpected": sorted(report["unexpected_keys"]),
        "of another shape": sorted(key for key, *_ in report["mismatched_keys"]),
    }
    if any(faults.values()):
        found = "; ".join(f"{what}: {_first(keys)}" for what, keys in faults.items() if keys)
        raise ValueError(
            f"The weights of {str(name_or_path)!r} (architectures {config.get('architectures')}) "
            f"do not make a complete CLIPModel ({found}). Use a checkpoint saved by "
            "`CLIPModel.save_pretrained`."
        )
    return clip


def _remedy(is_stretched: bool) -> str:
    """What to do with a checkpoint that is not CLIP's."""
    if is_stretched:
        return (
            "UrbanLN's positions are stretched already: load it with "
            "`UrbanLNModel.from_pretrained`."
        )
    return (
        "Use the checkpoint of a whole CLIPModel, such as 'openai/clip-vit-base-patch16'; convert "
        "OpenCLIP's weights to CLIP's Hugging Face form first."
    )


def _first(keys: list[str], most: int = 5) -> str:
    more = f" and {len(keys) - most} more" if len(keys) > most else ""
    return ", ".join(keys[:most]) + more


def _mend_legacy_eos(text_config: dict) -> None:
    """OpenAI's checkpoints name token 2 as the end of text; pooling needs the true one."""
    legacy = text_config.get("eos_token_id") == LEGACY_EOS_TOKEN_ID
    if legacy and text_config.get("vocab_size") == CLIP_VOCAB_SIZE:
        text_config["eos_token_id"] = CLIP_EOS_TOKEN_ID


@dataclass
class UrbanLNForPreTrainingOutput(ModelOutput):
    """Output of [`UrbanLNForPreTraining`]; B pairs, D dimensions, embeddings L2-normalised.

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
        target_entropy: entropy of the pseudo-targets in nats; near 0 they are all but one-hot.
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


class UrbanLNForPreTraining(UrbanLNModel):
    """UrbanLN with its momentum twin and two queues (student, teacher, keys).

    `forward` changes no state. The training loop calls, after `optimizer.step()`,
    `clamp_logit_scale_()` and `update_momentum_encoder()`, and after each batch `enqueue(...)`.
    What is published is `to_base()`: the twin and the queues live in training checkpoints.

    Examples:
        >>> model = UrbanLNForPreTraining.from_clip_pretrained("openai/clip-vit-base-patch16")
        >>> output = model(**inputs, sample_ids=ids)
        >>> output.loss.backward(); optimizer.step()
        >>> model.clamp_logit_scale_(); model.update_momentum_encoder()
        >>> model.enqueue(output.image_embeds_m, output.text_embeds_m, ids)
    """

    _keys_to_ignore_on_load_missing = [r"^momentum_encoder\.", r"^queue\."]  # noqa: RUF012
    _keys_to_ignore_on_load_unexpected = []  # noqa: RUF012

    def __init__(self, config: UrbanLNConfig):
        super().__init__(config)
        self.momentum_encoder = UrbanLNModel(config)
        self.queue = EmbeddingQueue(config.queue_size, config.projection_dim)
        self.post_init()
        self.reset_momentum_encoder()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, **kwargs):
        """As usual; from a checkpoint without a twin, the twin starts as a copy of the student."""
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
        missing = [key for key in missing if not key.startswith(("momentum_encoder.", "queue."))]
        if missing or unexpected:
            raise ValueError(
                f"These weights do not fit: missing {missing[:5]}, unexpected {unexpected[:5]}."
            )
        self.reset_momentum_encoder()

    def to_base(self) -> UrbanLNModel:
        """The model to publish: no twin, no queue. It shares the student's weights."""
        with torch.device("meta"):  # a shell: every weight is replaced by the student's
            base = UrbanLNModel(self.config)
        for name, module in self.named_children():
            if name not in ("momentum_encoder", "queue"):
                setattr(base, name, module)
        base.logit_scale = self.logit_scale
        return base.train(self.training)

    def train(self, mode: bool = True) -> "UrbanLNForPreTraining":
        """Set the mode of the student; the teacher stays in eval."""
        super().train(mode)
        self.momentum_encoder.eval()
        return self

    def _paired_parameters(self) -> Iterator[tuple[nn.Parameter, nn.Parameter]]:
        teacher = dict(self.momentum_encoder.named_parameters())
        for name, parameter in self.named_parameters():
            if not name.startswith("momentum_encoder."):
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
        """Put the teacher's embeddings of this process's batch, and of all others', in the queue.

        Args:
            image_embeds_m: `(B, D)`, from the output of `forward`.
            text_embeds_m: `(B, D)`.
            sample_ids: `(B,)`; without them the entries are nobody's positives.
        """
        self.queue.enqueue(_gather(image_embeds_m, text_embeds_m, sample_ids))

    @torch.no_grad()
    def encode_momentum(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        pixel_values: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The teacher's image and text embeddings of this batch, each `(B, D)`, float32."""
        return _embed(self.momentum_encoder, input_ids, attention_mask, pixel_values)

    @torch.no_grad()
    def encode_momentum_keys(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        pixel_values: torch.Tensor,
        sample_ids: torch.Tensor | None = None,
    ) -> MomentumKeys:
        """The teacher's keys of this batch over all processes.

        Samples meet one another only through these keys. So the keys of all micro-batches of an
        accumulation window, joined by `MomentumKeys.concatenate` and given to each `forward`,
        make the accumulated gradient exactly that of the one large batch.
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
                [`~UrbanLNForPreTraining.encode_momentum_keys`]); they must contain them.
            key_offset: where this batch's own keys start in `momentum_keys`.
            distillation_weight: mu of this step, `config.distillation_weight` where None.
            **kwargs: passed on to both towers.

        Raises:
            ValueError: a side is missing, or `sample_ids` or the keys do not fit the batch.
        """
        self._check_inputs(input_ids, pixel_values, sample_ids, momentum_keys, key_offset)
        image_embeds, text_embeds = _embed(self, input_ids, attention_mask, pixel_values, **kwargs)
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
        return momentum_distillation_losses(
            image_embeds, text_embeds, image_m, text_m, keys.image, keys.text, targets, scale
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


def _embed(
    model: UrbanLNModel,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None,
    pixel_values: torch.Tensor,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor]:
    """L2-normalised image and text embeddings, `(B, D)` each, float32 for the loss's sake."""
    image: BaseModelOutputWithPooling = model.get_image_features(pixel_values, **kwargs)
    text: BaseModelOutputWithPooling = model.get_text_features(
        input_ids, attention_mask=attention_mask, **kwargs
    )
    return (
        F.normalize(image.pooler_output.float(), dim=-1),
        F.normalize(text.pooler_output.float(), dim=-1),
    )


def _clamped_scale(logit_scale: torch.Tensor) -> torch.Tensor:
    """1 / tau, within its bounds; the gradient passes, so that a scale beyond them can return."""
    log_scale = logit_scale.float()
    excess = (log_scale.clamp(MIN_LOG_SCALE, MAX_LOG_SCALE) - log_scale).detach()
    return (log_scale + excess).exp()


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


__all__ = ["UrbanLNForPreTraining", "UrbanLNForPreTrainingOutput", "UrbanLNModel", "load_clip"]
