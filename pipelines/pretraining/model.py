"""The model to pretrain, from a checkpoint or from scratch."""

import dataclasses
import difflib
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import save_file
from torch import nn
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    SiglipConfig,
    set_seed,
)

from dataset_builders.hub_errors import explain
from modeling_urbanln import (
    UrbanLNConfig,
    UrbanLNForPreTraining,
    UrbanLNModel,
    UrbanLNProcessor,
    UrbanLNSiglipForPreTraining,
    load_clip,
    remedy,
)

from ..common.errors import InputError
from ..common.tokenizer import clip_tokenizer
from .arguments import ModelArguments, parse_config_overrides

BACKBONES: dict[str, Any] = {
    CLIPConfig.model_type: UrbanLNForPreTraining,
    SiglipConfig.model_type: UrbanLNSiglipForPreTraining,
}
TRAINED = {model.config_class.model_type: model for model in BACKBONES.values()}
SETTINGS = (
    "contrastive_keys",
    "distillation_weight",
    "distillation_warmup_steps",
    "momentum",
    "queue_size",
)
PROJECTIONS = ("text_projection", "visual_projection", "text_model.head", "vision_model.head")
ARCHITECTURE = (
    "text_config",
    "vision_config",
    "projection_dim",
    "logit_scale_init_value",
    "initializer_factor",
)


def build_model(
    args: ModelArguments, seed: int = 0
) -> tuple[UrbanLNForPreTraining, UrbanLNProcessor]:
    """Build the model in float32, with the teacher equal to the student, and its processor.

    Args:
        args: Checkpoint, or architecture to train from scratch.
        seed: Seed of randomly initialised weights and LoRA adapters.

    Raises:
        InputError: If the checkpoint has another architecture, or the configuration has unknown
            fields.
    """
    set_seed(seed)
    overrides = parse_config_overrides(args.config_overrides)
    _check_fields(overrides)
    for name in (*SETTINGS, "freeze_preserved_positions"):
        if getattr(args, name) is not None:
            overrides[name] = getattr(args, name)
    if args.contrastive_keys == "student":
        overrides |= {"distillation_weight": 0.0, "queue_size": 0}
    try:
        if args.model_name_or_path is None:
            model, processor = _from_scratch(args, overrides)
        else:
            model, processor = _from_checkpoint(args.model_name_or_path, args, overrides)
    except InputError:  # also a ValueError
        raise
    except (ValueError, StrictDataclassError) as error:  # found by the config's own checks
        raise InputError(f"The model cannot be built: {error}") from error
    model = model.float()
    if args.lora_rank:
        add_lora(model, args.lora_rank, args.lora_alpha, args.lora_target_modules)
    elif args.train_last_k_blocks is not None:
        train_last_blocks(model, args.train_last_k_blocks)
    return model, processor


def train_last_blocks(model: UrbanLNForPreTraining, k: int) -> None:
    """Freeze all but the last k blocks of each tower and the layers after them.

    Raises:
        InputError: If a tower has fewer blocks.
    """
    blocks = [tower.encoder.layers for tower in (model.text_model, model.vision_model)]
    for layers in blocks:
        if k > len(layers):
            raise InputError(f"--train_last_k_blocks {k}: a tower has only {len(layers)} blocks.")
    model.requires_grad_(False)
    trained: list[nn.Module] = [
        *(layers[len(layers) - k :] for layers in blocks),
        model.text_model.final_layer_norm,
        model.vision_model.post_layernorm,
        *(module for name, module in model.named_modules() if name in PROJECTIONS),
    ]
    for module in trained:
        module.requires_grad_(True)
    model.logit_scale.requires_grad_(True)


def add_lora(
    model: UrbanLNForPreTraining, rank: int, alpha: int, target_modules: list[str]
) -> None:
    """Add LoRA adapters to student and teacher; only the student's are trained.

    Raises:
        InputError: If peft is not installed, or no layer has such a name.
    """
    try:
        from peft import inject_adapter_in_model
    except ImportError as error:
        raise InputError("--lora_rank needs peft: pip install 'urbanln[lora]'.") from error
    try:
        inject_adapter_in_model(_lora_config(rank, alpha, target_modules), model)
    except ValueError as error:
        raise InputError(f"--lora_target_modules {target_modules}: {error}") from error
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name and not name.startswith("momentum_encoder."))
    model.reset_momentum_encoder()


def _lora_config(rank: int, alpha: int, target_modules: list[str]) -> Any:
    from peft import LoraConfig

    return LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(target_modules))


def merge_lora(base: UrbanLNModel) -> dict[str, torch.Tensor]:
    """Weights of the model with the LoRA adapters merged."""
    from peft.tuners.lora import LoraLayer

    state = dict(base.state_dict())
    for name, candidate in base.named_modules():
        if isinstance(candidate, LoraLayer):
            module: Any = candidate  # subclasses of LoraLayer define the methods
            for key in [key for key in state if key.startswith(f"{name}.")]:
                del state[key]
            layer = module.get_base_layer()
            for parameter, value in layer.state_dict().items():
                state[f"{name}.{parameter}"] = value
            with torch.no_grad():
                state[f"{name}.weight"] = layer.weight + module.get_delta_weight("default")
    return state


def save_lora(base: UrbanLNModel, args: ModelArguments, folder: Path) -> None:
    """Save the adapters in the format of `PeftModel.from_pretrained`."""
    config = _lora_config(args.lora_rank, args.lora_alpha, args.lora_target_modules)
    config.base_model_name_or_path = args.model_name_or_path
    config.inference_mode = True
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(str(folder))
    state = {
        f"base_model.model.{key.replace('.default.', '.')}": value.contiguous()
        for key, value in base.state_dict().items()
        if "lora_" in key
    }
    save_file(state, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def count_parameters(model: UrbanLNForPreTraining) -> dict[str, int]:
    """Number of parameters of the student: `num_parameters` and `num_trained_parameters`."""
    student = [p for n, p in model.named_parameters() if not n.startswith("momentum_encoder.")]
    return {
        "num_parameters": sum(p.numel() for p in student),
        "num_trained_parameters": sum(p.numel() for p in student if p.requires_grad),
    }


def enable_checkpointing(model: UrbanLNForPreTraining) -> None:
    """Recompute activations in the backward pass to save memory."""
    # renamed during transformers 5
    enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
    enable({"use_reentrant": False})


def compile_towers(model: UrbanLNForPreTraining) -> None:
    """Compile both towers of student and teacher in place; names of weights do not change."""
    for towers in (model, model.momentum_encoder):
        towers.vision_model.compile()
        towers.text_model.compile(dynamic=True)  # the length varies per batch


def _from_scratch(
    args: ModelArguments, overrides: dict[str, Any]
) -> tuple[UrbanLNForPreTraining, UrbanLNProcessor]:
    """Randomly initialised model with CLIP's 77 positions, stretched like a checkpoint's."""
    architecture = {name: overrides.pop(name) for name in ARCHITECTURE if name in overrides}
    architecture["text_config"] = {
        "max_position_embeddings": UrbanLNModel.source_positions,
        **architecture.get("text_config", {}),
    }
    clip = CLIPModel(CLIPConfig(**architecture))
    # untrained positions must not be frozen
    overrides = {"freeze_preserved_positions": False, **overrides}
    model = _stretched(clip, UrbanLNForPreTraining, args, overrides)
    vision_config: Any = clip.config.vision_config
    side = vision_config.image_size
    # no centre crop: it would remove half of a wide street view
    image_processor = CLIPImageProcessor(size={"height": side, "width": side}, do_center_crop=False)
    return model, UrbanLNProcessor(image_processor, clip_tokenizer(_positions(model)))


def _from_checkpoint(
    name: str, args: ModelArguments, overrides: dict[str, Any]
) -> tuple[UrbanLNForPreTraining, UrbanLNProcessor]:
    clashing = [field for field in ARCHITECTURE if field in overrides]
    if clashing:
        raise InputError(
            f"--config_overrides {', '.join(clashing)}: the checkpoint {name!r} determines the "
            "architecture. Omit these, or omit --model_name_or_path."
        )
    try:
        model_type = UrbanLNConfig.get_config_dict(name)[0].get("model_type")
    except OSError as error:
        said = explain(error, name) or error
        raise InputError(f"--model_name_or_path {name!r} cannot be read: {said}") from error
    if model_type is None:
        raise InputError(f"--model_name_or_path {name!r} cannot be read: no model's config.json.")
    if model_type in TRAINED:
        model = TRAINED[model_type].from_pretrained(name, dtype=torch.float32, **overrides)
        return model, UrbanLNProcessor.from_pretrained(name)
    if model_type not in BACKBONES:
        known = ", ".join((*TRAINED, *BACKBONES))
        raise InputError(
            f"--model_name_or_path {name!r} is a checkpoint of another architecture: its "
            f"model_type is {model_type!r}, expected one of {known}. {remedy(model_type)}"
        )
    model_class = BACKBONES[model_type]
    try:
        source = load_clip(name, model_class=model_class.source_class, dtype=torch.float32)
    except ValueError as error:
        raise InputError(f"--model_name_or_path: {error}") from error
    model = _stretched(source, model_class, args, overrides)
    return model, UrbanLNProcessor.from_clip_pretrained(name, max_length=_positions(model))


def _stretched(
    source: Any, model_class: Any, args: ModelArguments, overrides: dict[str, Any]
) -> UrbanLNForPreTraining:
    """Stretch the positions unless the checkpoint has more than usual, i.e. stretched ones."""
    longer = source.config.text_config.max_position_embeddings > model_class.source_positions
    model: UrbanLNForPreTraining = model_class.from_clip_pretrained(
        source,
        num_preserved=args.num_preserved_positions,
        ratio=args.position_ratio,
        mode="none" if longer else args.position_mode,
        **overrides,
    )
    return model


def _positions(model: Any) -> int:
    length: int = model.config.text_config.max_position_embeddings
    return length


def _check_fields(overrides: dict[str, Any]) -> None:
    """Raise an error for unknown fields, which the configurations of transformers accept."""
    known = {
        "": UrbanLNConfig,
        "text_config.": CLIPTextConfig,
        "vision_config.": CLIPVisionConfig,
    }
    for prefix, config in known.items():
        given = overrides.get(prefix.rstrip("."), {}) if prefix else overrides
        names = [field.name for field in dataclasses.fields(config)]
        for name in given:
            if name not in names:
                close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
                hint = f" Did you mean '{prefix}{close[0]}'?" if close else ""
                raise InputError(f"config_overrides: unknown field '{prefix}{name}'.{hint}")


__all__ = [
    "add_lora",
    "build_model",
    "compile_towers",
    "count_parameters",
    "enable_checkpointing",
    "merge_lora",
    "save_lora",
    "train_last_blocks",
]
