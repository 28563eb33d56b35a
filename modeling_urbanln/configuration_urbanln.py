"""Configuration of UrbanLN: CLIP's own, with longer text and the settings of self-distillation."""

from dataclasses import dataclass
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import CLIPConfig, CLIPTextConfig, CLIPVisionConfig, PreTrainedConfig

POSITION_MODES = ("ipsi", "equation2", "midpoint", "resize", "none")
CONTRASTIVE_KEYS = ("teacher", "both", "student")
PIPELINES = {
    "urban-region-feature-extraction": {
        "impl": "pipeline_urbanln.UrbanRegionFeatureExtractionPipeline",
        "pt": ["AutoModel"],
        "type": "multimodal",
    }
}


@dataclass(init=False, repr=False, eq=False)
class SelfDistillationFields:
    """Fields that UrbanLN adds to the configuration of a dual encoder, before it among the bases.

    Args:
        distillation_weight: mu of equation (6); 0 leaves the contrastive loss alone.
        distillation_warmup_steps: optimizer steps over which mu rises linearly from 0 (0: no ramp).
        momentum: m of the teacher's moving average, `teacher = m * teacher + (1 - m) * student`.
        queue_size: K, how many earlier teacher embeddings of each modality serve as keys.
        contrastive_keys: `"teacher"` for the paper's loss, whose keys get no gradient; `"both"` for
            the student's keys of the batch, with gradient, beside the teacher's of the queue;
            `"student"` for CLIP's own loss within the batch, without teacher, queue and
            pseudo-targets (mu must be 0).
        num_preserved_positions: the first text positions, which stretching leaves untouched.
        position_ratio: how many new positions each later one became.
        position_mode: how the positions were stretched (`"none"`: they were not).
        freeze_preserved_positions: whether the preserved positions get no gradient.

    Raises:
        ValueError: a value outside its range, with the value that was got.
    """

    # a saved folder carries the code, and so loads for these tasks without the package
    task_classes: ClassVar[dict[str, str]]

    distillation_weight: float | int = 0.5
    distillation_warmup_steps: int = 0
    momentum: float | int = 0.995
    queue_size: int = 4096
    contrastive_keys: str = "teacher"
    num_preserved_positions: int = 20
    position_ratio: int = 4
    position_mode: str = "ipsi"
    freeze_preserved_positions: bool = True

    def __post_init__(self: Any, **kwargs):
        """Name the code that loads a saved folder."""
        super().__post_init__(**kwargs)
        self.auto_map = {**self.task_classes, **(getattr(self, "auto_map", None) or {})}
        self.custom_pipelines = {**PIPELINES, **(getattr(self, "custom_pipelines", None) or {})}

    def validate_architecture(self):
        """Part of `@strict`-powered validation: every number lies where its equation needs it."""
        for name in ("distillation_weight", "momentum"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"`{name}` must lie in [0, 1], got {value}.")
        for name in ("queue_size", "distillation_warmup_steps", "num_preserved_positions"):
            value = getattr(self, name)
            if value < 0:
                raise ValueError(f"`{name}` must not be negative, got {value}.")
        if self.position_ratio < 1:
            raise ValueError(f"`position_ratio` must be at least 1, got {self.position_ratio}.")
        for name, choices in (
            ("position_mode", POSITION_MODES),
            ("contrastive_keys", CONTRASTIVE_KEYS),
        ):
            value = getattr(self, name)
            if value not in choices:
                raise ValueError(f"`{name}` must be one of {choices}, got {value!r}.")
        if self.contrastive_keys == "student" and self.distillation_weight:
            raise ValueError(
                "`contrastive_keys='student'` has no teacher: `distillation_weight` must be 0, got "
                f"{self.distillation_weight}."
            )


@strict
class UrbanLNTextConfig(CLIPTextConfig):
    """CLIP's text configuration with 248 positions (77 stretched by four after the first 20)."""

    max_position_embeddings: int = 248


@strict
class UrbanLNConfig(SelfDistillationFields, CLIPConfig):
    """Configuration of [`UrbanLNModel`] and [`UrbanLNForPreTraining`].

    Everything of `CLIPConfig`, and the fields of [`SelfDistillationFields`].
    """

    model_type = "urbanln"
    task_classes = {  # noqa: RUF012
        "AutoModelForPreTraining": "modeling_urbanln.UrbanLNForPreTraining",
        "AutoModelForZeroShotImageClassification": "modeling_urbanln.UrbanLNModel",
    }
    sub_configs_defaults = {  # noqa: RUF012 - transformers' own class attribute
        "vision_config": CLIPVisionConfig,
        "text_config": UrbanLNTextConfig,
    }

    text_config: dict | CLIPTextConfig | None = None

    def __post_init__(self, **kwargs):
        """Read any CLIP text configuration as ours, so that 77 positions are saved as 77."""
        if isinstance(self.text_config, PreTrainedConfig):
            self.text_config = UrbanLNTextConfig(**self.text_config.to_dict())
        super().__post_init__(**kwargs)


__all__ = ["POSITION_MODES", "SelfDistillationFields", "UrbanLNConfig", "UrbanLNTextConfig"]
