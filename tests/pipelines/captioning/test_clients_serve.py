"""The client against a real server: `transformers serve` with a tiny model."""

import asyncio
import importlib.util
import io
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    CLIPImageProcessor,
    LlavaProcessor,
)

from pipelines.captioning.clients import open_model
from pipelines.captioning.records import Request, Sampling
from pipelines.common.tokenizer import clip_tokenizer

TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endfor %}"
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("fastapi") is None or importlib.util.find_spec("openai") is None,
        reason='transformers serve needs: pip install "transformers[serving]"',
    ),
]


def save_tiny_llava(folder: Path) -> None:
    words = clip_tokenizer(77)
    words.add_tokens(["<image>"], special_tokens=True)
    small = {"hidden_size": 32, "intermediate_size": 64}
    small |= {"num_hidden_layers": 2, "num_attention_heads": 4}
    special = {"pad_token_id": words.pad_token_id, "eos_token_id": words.eos_token_id}
    vision = {**small, "model_type": "clip_vision_model", "image_size": 30, "patch_size": 10}
    text = {**small, **special, "model_type": "llama", "vocab_size": len(words)}
    image_token_id = words.convert_tokens_to_ids("<image>")
    config = AutoConfig.for_model(
        "llava", text_config=text, vision_config=vision, image_token_id=image_token_id
    )
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config).float()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:  # large enough for answers to depend on the image
                parameter.normal_(0, 0.25)
    # `transformers serve` only samples if the checkpoint says so
    model.generation_config.update(**special, do_sample=True, top_k=0)
    model.save_pretrained(folder)
    size = {"height": 30, "width": 30}
    LlavaProcessor(
        image_processor=CLIPImageProcessor(size=size, crop_size=size),
        tokenizer=words,
        patch_size=10,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    ).save_pretrained(folder)


def address_of(process: subprocess.Popen, log: Path) -> str:
    """Address that the server prints when it listens, on a port chosen by the system."""
    while process.poll() is None:
        if found := re.search(r"running on (http://[\d.]+:\d+)", log.read_text()):
            return f"{found[1]}/v1"
        time.sleep(0.1)
    pytest.fail(f"transformers serve does not start:\n{log.read_text()[-2000:]}")


def request(image_seed: int = 0, **sampling) -> Request:
    pixels = np.random.default_rng(image_seed).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    values = {"temperature": 0.9, "top_p": 0.95, "max_tokens": 12, "seed": 1} | sampling
    prompt = "Describe the image, the sign <image> too"
    return Request("describe", prompt, buffer.getvalue(), Sampling(**values), "a", "", "satellite")


async def ask(url: str, model: str, requests: list[Request]):
    # one at a time, since concurrent requests share the server's random state
    client = open_model({"name": "m", "model": model, "base_url": url, "max_concurrency": 1})
    try:
        return await asyncio.gather(*(client.complete(one) for one in requests))
    finally:
        await client.close()


def test_transformers_serve_answers_and_uses_seed_image_and_temperature(tmp_path):
    save_tiny_llava(tmp_path)
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(tmp_path)]
    options = ["--host", "127.0.0.1", "--port", "0", "--device", "cpu", "--dtype", "float32"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    requests = [request(), request(), request(seed=2), request(image_seed=5)]
    requests += [request(temperature=0.0), request(temperature=0.0, seed=2)]
    with (tmp_path / "log.txt").open("wb") as log:
        process = subprocess.Popen(command + options, env=environment, stdout=log, stderr=log)
        try:
            url = address_of(process, tmp_path / "log.txt")
            replies = asyncio.run(ask(url, str(tmp_path), requests))
        finally:
            process.terminate()
            process.wait()
    assert replies[0].finish_reason in ("length", "stop")
    assert replies[0].prompt_tokens > 20
    assert 0 < replies[0].completion_tokens <= 12
    texts = [one.text for one in replies]
    assert texts[0] == texts[1]
    assert texts[4] == texts[5]
    assert len({texts[0], texts[2], texts[3], texts[4]}) == 4
