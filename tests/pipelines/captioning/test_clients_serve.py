"""The client against a real server: `transformers serve` with a tiny model."""

import asyncio
import importlib.util
import io
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.captioning.clients import open_model
from pipelines.captioning.records import Request, Sampling
from tests.pipelines.captioning.tiny_vlms import save_tiny_llava

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("fastapi") is None or importlib.util.find_spec("openai") is None,
        reason='transformers serve needs: pip install "transformers[serving]"',
    ),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Folder of the model, and address of its server."""
    folder = save_tiny_llava(tmp_path_factory.mktemp("served"))
    path = folder / "generation_config.json"
    # `transformers serve` only samples if the checkpoint says so
    path.write_text(json.dumps(json.loads(path.read_text()) | {"do_sample": True, "top_k": 0}))
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(folder)]
    options = ["--host", "127.0.0.1", "--port", "0", "--device", "cpu", "--dtype", "float32"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(command + options, env=environment, stdout=log, stderr=log)
        try:
            yield folder, f"{_url_when_it_serves(process, folder / 'log.txt')}/v1"
        finally:
            process.terminate()
            process.wait()


def _url_when_it_serves(process: subprocess.Popen, log: Path) -> str:
    """Address that the server prints when it listens, on a port chosen by the system."""
    while process.poll() is None:
        if found := re.search(r"running on (http://[\d.]+:\d+)", log.read_text()):
            return found[1]
        time.sleep(0.1)
    pytest.fail(f"transformers serve does not start:\n{log.read_text()[-2000:]}")


def ask(url: str, model: str, requests: list[Request], **changes):
    async def main():
        client = open_model({"name": "m", "model": model, "base_url": url} | changes)
        try:
            tasks = [client.complete(one) for one in requests]
            return await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            await client.close()

    return asyncio.run(main())


def request(image_seed: int = 0, **sampling) -> Request:
    pixels = np.random.default_rng(image_seed).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    values = {"temperature": 0.9, "top_p": 0.95, "max_tokens": 12, "seed": 1} | sampling
    prompt = "Describe the image, the sign <image> too"
    return Request("describe", prompt, buffer.getvalue(), Sampling(**values), "a", "", "satellite")


def test_transformers_serve_answers_and_uses_seed_image_and_temperature(server):
    folder, url = server
    requests = [
        request(),
        request(),
        request(seed=2),
        request(image_seed=5),
        request(temperature=0.0),
        request(temperature=0.0, seed=2),
    ]
    # one at a time, since concurrent requests share the server's random state
    replies = ask(url, str(folder), requests, max_concurrency=1)
    assert replies[0].finish_reason in ("length", "stop")
    assert replies[0].prompt_tokens > 20
    assert 0 < replies[0].completion_tokens <= 12
    texts = [one.text for one in replies]
    assert texts[0] == texts[1]
    assert texts[4] == texts[5]
    assert len({texts[0], texts[2], texts[3], texts[4]}) == 4
