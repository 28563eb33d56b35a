"""Real architectures with tiny random weights, and processors that need no download."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    CLIPImageProcessor,
    PreTrainedTokenizerFast,
)

SPECIAL = [
    "<pad>",
    "<s>",
    "</s>",
    "<image>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<img>",
    "</img>",
    "<IMG_CONTEXT>",
    "<video>",
]
WORDS = [
    "a",
    "the",
    "of",
    "and",
    "with",
    "near",
    "street",
    "road",
    "tree",
    "car",
    "building",
    "roof",
    "river",
    "bridge",
    "park",
    "square",
    "tower",
    "window",
    "red",
    "green",
    "tall",
    "wide",
    "quiet",
    "busy",
    "crossing",
    "field",
    "path",
    "wall",
    "gate",
    "shop",
    "Describe",
    "image",
    ".",
]
KINDS = ("llava", "qwen2_5_vl", "internvl")
TEXT: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: "
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}IMAGE{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %} {% endfor %}"
)
IMAGE_TOKENS = {"llava": "<image>", "qwen2_5_vl": "<|image_pad|>", "internvl": "<IMG_CONTEXT>"}
PLACEHOLDERS = {
    **IMAGE_TOKENS,
    "qwen2_5_vl": "<|vision_start|><|image_pad|><|vision_end|>",
}


def tokenizer(image_token: str) -> PreTrainedTokenizerFast:
    """Bytes, and a few words joined from them."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces, merges = [*SPECIAL, *letters], []
    for word in (f"Ġ{word}" for word in WORDS):
        for end in range(2, len(word) + 1):
            if word[:end] not in pieces:
                pieces.append(word[:end])
                merges.append((word[: end - 1], word[end - 1]))
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    core = Tokenizer(models.BPE(vocabulary, merges))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=SPECIAL[3:],
        extra_special_tokens={
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "image_token": image_token,
            "video_token": "<video>",
        },
    )


def save_tiny_vlm(kind: str, folder: Path) -> Path:
    """Save model and processor; the same weights every time."""
    words = tokenizer(IMAGE_TOKENS[kind])
    numbers = words.get_vocab()
    config, processor = _BUILDERS[kind](words, numbers)
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config).float()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                # wide enough that an answer depends on its image
                parameter.normal_(0, 0.25)
    model.generation_config.pad_token_id = numbers["<pad>"]
    model.generation_config.eos_token_id = numbers["</s>"]
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _template(kind: str) -> str:
    return TEMPLATE.replace("IMAGE", PLACEHOLDERS[kind])


def _tokens(words: PreTrainedTokenizerFast) -> dict[str, int]:
    ids = {f"{name}_token_id": getattr(words, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    return ids | {"vocab_size": len(words)}


def _llava(words: PreTrainedTokenizerFast, numbers: dict[str, int]) -> tuple[Any, Any]:
    from transformers import LlavaProcessor

    vision = {
        "model_type": "clip_vision_model",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 30,
        "patch_size": 10,
        "projection_dim": 16,
    }
    config = AutoConfig.for_model(
        "llava",
        text_config={"model_type": "llama", **TEXT, **_tokens(words)},
        vision_config=vision,
        image_token_id=numbers["<image>"],
        vision_feature_layer=-2,
    )
    images = CLIPImageProcessor(
        size={"height": 30, "width": 30}, crop_size={"height": 30, "width": 30}
    )
    processor = LlavaProcessor(
        image_processor=images,
        tokenizer=words,
        patch_size=10,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=_template("llava"),
    )
    return config, processor


def _qwen(words: PreTrainedTokenizerFast, numbers: dict[str, int]) -> tuple[Any, Any]:
    from transformers import Qwen2_5_VLProcessor, Qwen2VLImageProcessor
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 2,
        "out_hidden_size": 32,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "fullatt_block_indexes": [1],
        "window_size": 56,
    }
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10_000.0}
    config = AutoConfig.for_model(
        "qwen2_5_vl",
        text_config={**TEXT, **_tokens(words), "rope_parameters": rope},
        vision_config=vision,
        image_token_id=numbers["<|image_pad|>"],
        video_token_id=numbers["<|video_pad|>"],
        vision_start_token_id=numbers["<|vision_start|>"],
        vision_end_token_id=numbers["<|vision_end|>"],
    )
    processor = Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(min_pixels=28 * 28, max_pixels=16 * 28 * 28),
        tokenizer=words,
        video_processor=Qwen2VLVideoProcessor(),
        chat_template=_template("qwen2_5_vl"),
    )
    return config, processor


def _internvl(words: PreTrainedTokenizerFast, numbers: dict[str, int]) -> tuple[Any, Any]:
    from transformers import GotOcr2ImageProcessor, InternVLProcessor, InternVLVideoProcessor

    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": [28, 28],
        "patch_size": [7, 7],
    }
    config = AutoConfig.for_model(
        "internvl",
        text_config={"model_type": "qwen2", **TEXT, **_tokens(words)},
        vision_config=vision,
        image_token_id=numbers["<IMG_CONTEXT>"],
        image_seq_length=4,
        downsample_ratio=0.5,
    )
    size = {"height": 28, "width": 28}
    processor = InternVLProcessor(
        image_processor=GotOcr2ImageProcessor(size=size, crop_to_patches=True, max_patches=3),
        tokenizer=words,
        video_processor=InternVLVideoProcessor(size=size),
        image_seq_length=4,
        chat_template=_template("internvl"),
    )
    return config, processor


_BUILDERS = {"llava": _llava, "qwen2_5_vl": _qwen, "internvl": _internvl}
