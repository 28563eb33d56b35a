"""The five models of the paper: what they are called, and how to serve them.

Where transformers has no class for a model, it runs behind a server only. Commits are not pinned
here: put the one you serve into `revision`, it is part of every table. Licences are those that the
projects state; read them before you publish captions.
"""

import difflib
from dataclasses import dataclass

from ..errors import CaptioningError


@dataclass(frozen=True)
class Preset:
    """A model.

    Attributes:
        name: in a recipe's `preset`.
        model: id on the Hub, or of the project, in the form that transformers loads if it can.
        served_model: what the server of `serve_command` calls it.
        revision: "main" moves; a recipe should name a commit.
        transformers_class: None if transformers has none.
        model_type: of its configuration, as transformers or the checkpoint names it.
        chat_template: where it comes from.
        image_size: what the model sees of an image.
        serve_command: gives an OpenAI-compatible server.
        licence: of weights and code, as their projects state.
        remarks: what else one has to know.
    """

    name: str
    model: str
    served_model: str
    revision: str
    transformers_class: str | None
    model_type: str
    chat_template: str
    image_size: str
    serve_command: str
    licence: str
    remarks: str


_PRESETS = (
    Preset(
        name="llama-adapter-v2",
        model="OpenGVLab/LLaMA-Adapter",
        served_model="llama-adapter-v2",
        revision="main",
        transformers_class=None,
        model_type="",
        chat_template="Alpaca's, '### Instruction: ... ### Response:'; `llama.format_prompt` of "
        "the project writes it",
        image_size="224 x 224, by CLIP ViT-L/14's preprocessing",
        serve_command=(
            "git clone https://github.com/OpenGVLab/LLaMA-Adapter\n"
            "cd LLaMA-Adapter/llama_adapter_v2_multimodal7b && pip install -r requirements.txt\n"
            "# then a server of your own around llama.load('BIAS-7B', LLAMA_DIR) and "
            "model.generate(image, [llama.format_prompt(prompt)]):\n"
            "# POST /v1/chat/completions in, {'choices': [{'message': {'content': text}, "
            "'finish_reason': 'stop'}]} out; GET /v1/models must answer"
        ),
        licence="code GPL-3.0; needs the weights of LLaMA 1 (7B), which are for research only",
        remarks="Neither transformers nor vLLM runs it, and no checkpoint on the Hub is of a kind "
        "that they load: only behind a server written around the project's code.",
    ),
    Preset(
        name="sharegpt4v-7b",
        model="Lin-Chen/ShareGPT4V-7B",
        served_model="Lin-Chen/ShareGPT4V-7B",
        revision="main",
        transformers_class=None,
        model_type="share4v",
        chat_template="Vicuna v1.5's, 'USER: <image>\\n... ASSISTANT:'",
        image_size="336 x 336 (CLIP ViT-L/14-336, fine-tuned: its own vision tower must be used)",
        serve_command=(
            "git clone https://github.com/ShareGPT4Omni/ShareGPT4V && cd ShareGPT4V && "
            "pip install -e .\n"
            "# either the project's code behind a server of your own, or its weights converted to "
            "LLaVA-1.5's layout in a folder, and then\n"
            "vllm serve ./ShareGPT4V-7B-hf --served-model-name Lin-Chen/ShareGPT4V-7B "
            "--max-model-len 4096 --limit-mm-per-prompt '{\"image\": 1}'"
        ),
        licence="code Apache-2.0, data CC BY-NC 4.0, language model under Llama 2's licence: "
        "research only",
        remarks="The published checkpoint's type, share4v, is not registered in transformers. Its "
        "layout is LLaVA-1.5's: a converted folder loads as LlavaForConditionalGeneration; give it "
        "as `model` instead of this preset.",
    ),
    Preset(
        name="qwen2.5-vl-7b",
        model="Qwen/Qwen2.5-VL-7B-Instruct",
        served_model="Qwen/Qwen2.5-VL-7B-Instruct",
        revision="main",
        transformers_class="Qwen2_5_VLForConditionalGeneration",
        model_type="qwen2_5_vl",
        chat_template="the checkpoint's (ChatML)",
        image_size="native, sides rounded to multiples of 28; a token for 28 x 28 pixels. Bound it "
        "by `max_pixels`: 1003520 is 1280 tokens",
        serve_command=(
            "vllm serve Qwen/Qwen2.5-VL-7B-Instruct --max-model-len 8192 "
            '--limit-mm-per-prompt \'{"image": 1}\' --mm-processor-kwargs \'{"max_pixels": '
            "1003520}'"
        ),
        licence="Apache-2.0",
        remarks="`transformers serve Qwen/Qwen2.5-VL-7B-Instruct` speaks the same protocol, for "
        "small runs. In process: processor_options: {max_pixels: 1003520}.",
    ),
    Preset(
        name="deepseek-vl2-tiny",
        model="deepseek-ai/deepseek-vl2-tiny",
        served_model="deepseek-ai/deepseek-vl2-tiny",
        revision="main",
        transformers_class=None,
        model_type="deepseek_vl_v2",
        chat_template="'<|User|>: <image>\\n... <|Assistant|>:'; the checkpoint has none, vLLM "
        "brings it (`--chat-template`, see its examples/template_deepseek_vl2.jinja)",
        image_size="tiles of 384 x 384, up to 9, and a thumbnail",
        serve_command=(
            "vllm serve deepseek-ai/deepseek-vl2-tiny --max-model-len 4096 --hf-overrides "
            '\'{"architectures": ["DeepseekVLV2ForCausalLM"]}\' --chat-template '
            "template_deepseek_vl2.jinja --limit-mm-per-prompt '{\"image\": 1}'"
        ),
        licence="code MIT, weights under the DeepSeek Model License (commercial use allowed)",
        remarks="transformers has deepseek_vl and deepseek_vl_hybrid, which are the first "
        "generation, and no class for this one; the project's own code needs transformers 4.38. "
        "The context is 4096 tokens.",
    ),
    Preset(
        name="internvl3-8b",
        model="OpenGVLab/InternVL3-8B-hf",
        served_model="OpenGVLab/InternVL3-8B",
        revision="main",
        transformers_class="InternVLForConditionalGeneration",
        model_type="internvl",
        chat_template="the checkpoint's (ChatML)",
        image_size="tiles of 448 x 448, up to 12, and a thumbnail; 256 tokens each",
        serve_command=(
            "vllm serve OpenGVLab/InternVL3-8B --trust-remote-code --max-model-len 8192 "
            '--limit-mm-per-prompt \'{"image": 1}\' --mm-processor-kwargs \'{"max_dynamic_patch": '
            "6}'"
        ),
        licence="code MIT, weights Apache-2.0 (built on Qwen2.5)",
        remarks="Two checkpoints of the same weights: OpenGVLab/InternVL3-8B with the project's "
        "code, for vLLM, and OpenGVLab/InternVL3-8B-hf for transformers.",
    ),
)
PRESETS: dict[str, Preset] = {preset.name: preset for preset in _PRESETS}
"""By name."""


def find_preset(name: str) -> Preset:
    """A preset by its name.

    Raises:
        CaptioningError: there is none.
    """
    if name not in PRESETS:
        close = difflib.get_close_matches(str(name), PRESETS, 1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise CaptioningError(
            f"There is no preset {name!r}; there are {', '.join(PRESETS)}.{hint} Any other model "
            f"is given by `model`."
        )
    return PRESETS[name]


__all__ = ["PRESETS", "Preset", "find_preset"]
