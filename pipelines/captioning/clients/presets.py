"""Known captioning models, with the commands that serve them.

Names, commands and licences come from the documentation of the projects; none was run for this
repository, and licences that could not be checked are marked. Read the model card before publishing
captions. Commits are not pinned: set `revision` to the one that you serve.
"""

import difflib
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import CaptioningError

_ONE_IMAGE = "--limit-mm-per-prompt '{\"image\": 1}'"


@dataclass(frozen=True)
class Preset:
    """A captioning model and how to serve it.

    Attributes:
        name: Value of `preset` in a recipe.
        model: Name of the model at the server that `serve_command` starts.
        serve_command: Shell commands that start an OpenAI-compatible server.
        licence: Licence of code and weights.
        source: Page that states the licence.
        remarks: Requirements and image resolution.
        extra_body: Additional fields of each request.
    """

    name: str
    model: str
    serve_command: str
    licence: str
    source: str
    remarks: str
    extra_body: Mapping[str, Any] = field(default_factory=dict)


PAPER = (
    Preset(
        "llama-adapter-v2",
        "llama-adapter-v2",
        "git clone https://github.com/OpenGVLab/LLaMA-Adapter\n"
        "cd LLaMA-Adapter/llama_adapter_v2_multimodal7b && pip install -r requirements.txt\n"
        "# then write a server around llama.load('BIAS-7B', LLAMA_DIR) and\n"
        "# model.generate(image, [llama.format_prompt(prompt)]), whose POST /v1/chat/completions\n"
        "# returns {'choices': [{'message': {'content': text}, 'finish_reason': 'stop'}]}",
        "code GPL-3.0 (not verified); needs the weights of LLaMA 1 (7B), for research only",
        "https://github.com/OpenGVLab/LLaMA-Adapter",
        "Not supported by transformers, vLLM and SGLang. Input of 224 x 224 pixels.",
    ),
    Preset(
        "sharegpt4v-7b",
        "Lin-Chen/ShareGPT4V-7B",
        "# convert the weights to LLaVA-1.5's layout in ./ShareGPT4V-7B-hf, with their own vision\n"
        "# encoder, then\n"
        "vllm serve ./ShareGPT4V-7B-hf --served-model-name Lin-Chen/ShareGPT4V-7B "
        f"--max-model-len 4096 {_ONE_IMAGE}",
        "code Apache-2.0, data CC BY-NC 4.0; checkpoint for research only, under Llama's terms",
        "https://github.com/InternLM/InternLM-XComposer/tree/main/projects/ShareGPT4V",
        "The checkpoint's type, share4v, is not in transformers. Input of 336 x 336 pixels.",
    ),
    Preset(
        "qwen2.5-vl-7b",
        "Qwen/Qwen2.5-VL-7B-Instruct",
        f"vllm serve Qwen/Qwen2.5-VL-7B-Instruct --max-model-len 8192 {_ONE_IMAGE} "
        "--mm-processor-kwargs '{\"max_pixels\": 1003520}'\n"
        "# small runs: transformers serve Qwen/Qwen2.5-VL-7B-Instruct",
        "Apache-2.0",
        "https://huggingface.co/Qwen/Qwen2.5-VL-7B-Instruct",
        "One token per 28 x 28 pixels: `max_pixels` 1003520 bounds an image at 1280 tokens.",
    ),
    Preset(
        "deepseek-vl2-tiny",
        "deepseek-ai/deepseek-vl2-tiny",
        "vllm serve deepseek-ai/deepseek-vl2-tiny --max-model-len 4096 --hf-overrides "
        '\'{"architectures": ["DeepseekVLV2ForCausalLM"]}\' --chat-template '
        f"template_deepseek_vl2.jinja {_ONE_IMAGE}",
        "code MIT, weights under the DeepSeek Model License (commercial use allowed)",
        "https://github.com/deepseek-ai/DeepSeek-VL2",
        "The checkpoint has no chat template; vLLM's examples contain it. Context of 4096 tokens.",
    ),
    Preset(
        "internvl3-8b",
        "OpenGVLab/InternVL3-8B",
        f"vllm serve OpenGVLab/InternVL3-8B --trust-remote-code --max-model-len 8192 {_ONE_IMAGE} "
        "--mm-processor-kwargs '{\"max_dynamic_patch\": 6}'",
        "Apache-2.0",
        "https://huggingface.co/OpenGVLab/InternVL3-8B",
        "256 tokens per tile of 448 x 448 pixels. `transformers serve` needs the checkpoint "
        "OpenGVLab/InternVL3-8B-hf.",
    ),
)
"""The models of the paper."""

CURRENT = (
    Preset(
        "qwen3-vl-8b",
        "Qwen/Qwen3-VL-8B-Instruct",
        f"vllm serve Qwen/Qwen3-VL-8B-Instruct --max-model-len 8192 {_ONE_IMAGE}\n"
        "# or: python -m sglang.launch_server --model-path Qwen/Qwen3-VL-8B-Instruct --port 8000\n"
        "# small runs: transformers serve Qwen/Qwen3-VL-8B-Instruct",
        "Apache-2.0",
        "https://huggingface.co/Qwen/Qwen3-VL-8B-Instruct",
        "Needs vLLM 0.11 or newer.",
    ),
    Preset(
        "qwen3.5-9b",
        "Qwen/Qwen3.5-9B",
        f"vllm serve Qwen/Qwen3.5-9B --max-model-len 8192 {_ONE_IMAGE} --reasoning-parser qwen3",
        "Apache-2.0",
        "https://huggingface.co/Qwen/Qwen3.5-9B",
        "Needs vLLM 0.17 or newer. Reasons by default; the preset turns that off.",
        {"chat_template_kwargs": {"enable_thinking": False}},
    ),
    Preset(
        "internvl3.5-8b",
        "OpenGVLab/InternVL3_5-8B",
        f"vllm serve OpenGVLab/InternVL3_5-8B --trust-remote-code --max-model-len 8192 "
        f"{_ONE_IMAGE}",
        "Apache-2.0",
        "https://huggingface.co/OpenGVLab/InternVL3_5-8B-Instruct",
        "256 tokens per tile of 448 x 448 pixels.",
    ),
    Preset(
        "gemma-3-12b",
        "google/gemma-3-12b-it",
        f"vllm serve google/gemma-3-12b-it --max-model-len 8192 {_ONE_IMAGE}\n"
        "# small runs: transformers serve google/gemma-3-12b-it",
        "Gemma Terms of Use, to be accepted on the Hub",
        "https://ai.google.dev/gemma/terms",
        "256 tokens per image of 896 x 896 pixels.",
    ),
    Preset(
        "glm-4.5v",
        "zai-org/GLM-4.5V-FP8",
        f"vllm serve zai-org/GLM-4.5V-FP8 --tensor-parallel-size 4 --enable-expert-parallel "
        f"--max-model-len 16384 --reasoning-parser glm45 {_ONE_IMAGE}",
        "MIT (not verified)",
        "https://huggingface.co/zai-org/GLM-4.5V-FP8",
        "Four GPUs of 80 GB; vLLM 0.12 or newer. Reasons by default; the preset turns that off.",
        {"chat_template_kwargs": {"enable_thinking": False}},
    ),
)
"""Newer models."""

PRESETS: dict[str, Preset] = {preset.name: preset for preset in (*PAPER, *CURRENT)}


def find_preset(name: str) -> Preset:
    """Look up a preset.

    Raises:
        CaptioningError: Unknown name.
    """
    if name not in PRESETS:
        close = difflib.get_close_matches(str(name), PRESETS, 1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise CaptioningError(
            f"Unknown preset {name!r}; available: {', '.join(PRESETS)}.{hint} For any other model, "
            "set `model`."
        )
    return PRESETS[name]


def describe_presets() -> str:
    """List all presets as text."""
    parts = []
    for title, presets in (("The paper's models", PAPER), ("Newer models", CURRENT)):
        parts.append(f"{title} (commands not tested in this repository)\n")
        for one in presets:
            command = textwrap.indent(one.serve_command, "    ")
            head = f"{one.name}: {one.model}\n  Licence: {one.licence}; {one.source}"
            parts.append(f"{head}\n  {one.remarks}\n{command}\n")
    return "\n".join(parts)
