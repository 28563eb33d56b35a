"""UrbanLN model configuration."""

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
    """Configuration of momentum self-distillation and of the stretched text positions.

    A mixin that precedes the configuration class of a dual encoder among the bases.

    Args:
        distillation_weight: Weight mu of the distillation loss, equation (6). 0 disables it.
        distillation_warmup_steps: Number of optimizer steps over which mu rises linearly from 0
            to `distillation_weight`.
        momentum: Coefficient m of the moving average
            `teacher = m * teacher + (1 - m) * student`.
        queue_size: Number K of earlier teacher embeddings per modality that serve as keys.
        contrastive_keys: Keys of the contrastive loss. `"teacher"` (the paper): teacher
            embeddings, without gradient. `"both"`: student embeddings of the batch, with
            gradient, and teacher embeddings of the queue. `"student"`: CLIP's in-batch loss
            without teacher, queue and pseudo-targets; requires `distillation_weight=0`.
        num_preserved_positions: Number of initial text positions that stretching keeps.
        position_ratio: Stretching factor of the remaining positions.
        position_mode: Stretching mode, see [`stretch_position_embeddings`]; `"none"` if the
            positions were not stretched.
        freeze_preserved_positions: Whether to exclude the preserved positions from training.

    Raises:
        ValueError: If a value is out of range.
    """

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
        """Add the entries of `auto_map` and `custom_pipelines` that load a saved folder."""
        super().__post_init__(**kwargs)
        self.auto_map = {**self.task_classes, **(getattr(self, "auto_map", None) or {})}
        self.custom_pipelines = {**PIPELINES, **(getattr(self, "custom_pipelines", None) or {})}

    def validate_architecture(self):
        """Part of `@strict`-powered validation: check the ranges of the fields."""
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
        choices = {"position_mode": POSITION_MODES, "contrastive_keys": CONTRASTIVE_KEYS}
        for name, known in choices.items():
            if (value := getattr(self, name)) not in known:
                raise ValueError(f"`{name}` must be one of {known}, got {value!r}.")
        if self.contrastive_keys == "student" and self.distillation_weight:
            raise ValueError(
                "`contrastive_keys='student'` has no teacher: `distillation_weight` must be 0, got "
                f"{self.distillation_weight}."
            )


@strict
class UrbanLNTextConfig(CLIPTextConfig):
    """CLIP's text configuration with 248 positions: 77, all but the first 20 stretched by 4."""

    max_position_embeddings: int = 248


@strict
class UrbanLNConfig(SelfDistillationFields, CLIPConfig):
    """Configuration of [`UrbanLNModel`] and [`UrbanLNForPreTraining`].

    Takes the arguments of `CLIPConfig` and of [`SelfDistillationFields`].
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
        """Convert a CLIP text configuration, whose defaults differ, to [`UrbanLNTextConfig`]."""
        if isinstance(self.text_config, PreTrainedConfig):
            self.text_config = UrbanLNTextConfig(**self.text_config.to_dict())
        super().__post_init__(**kwargs)


__all__ = ["POSITION_MODES", "SelfDistillationFields", "UrbanLNConfig", "UrbanLNTextConfig"]
