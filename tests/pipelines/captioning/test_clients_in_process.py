"""In-process models: real architectures, tiny random weights."""

import asyncio
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipelines.captioning.clients import open_model
from pipelines.captioning.errors import ModelUnavailableError, RequestFailedError
from pipelines.captioning.records import Request, Sampling
from tests.pipelines.captioning.tiny_vlms import KINDS, save_tiny_vlm


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {kind: save_tiny_vlm(kind, tmp_path_factory.mktemp(kind)) for kind in KINDS}


def png(seed: int, width: int = 60, height: int = 40) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def request(number: int = 0, **changes) -> Request:
    """Requests of differing lengths, image sizes, temperatures and seeds."""
    fields: dict[str, Any] = {
        "task": "describe",
        "prompt": "Describe the image" + " a street" * (number % 3),
        "image": png(number, 60 + 20 * (number % 3)),
        "sampling": Sampling((0.0, 0.7, 1.2)[number % 3], 0.95, 10, number),
        "image_id": str(number),
        "image_sha256": "",
        "view": "street_view",
    }
    return Request(**(fields | changes))


def local_model(folder, **changes) -> Any:
    return open_model({"name": "tiny", "client": "in_process", "model": str(folder)} | changes)


def ask(folder, requests: list[Request], together: bool = True, **changes):
    async def main():
        model = local_model(folder, **changes)
        try:
            tasks = [model.complete(one) for one in requests]
            if together:
                return await asyncio.gather(*tasks, return_exceptions=True)
            return [await task for task in tasks]
        finally:
            await model.close()

    return asyncio.run(main())


@pytest.mark.parametrize("kind", KINDS)
def test_in_process_answer_is_the_same_alone_and_in_any_batch(folders, kind):
    requests = [request(number) for number in range(6)]
    alone = [reply.text for reply in ask(folders[kind], requests, together=False)]
    together = [reply.text for reply in ask(folders[kind], requests)]
    backwards = [reply.text for reply in ask(folders[kind], requests[::-1], batch_size=4)]
    assert alone == together == backwards[::-1]
    assert len(set(alone)) == 6


@pytest.mark.parametrize("kind", KINDS)
def test_in_process_answer_depends_on_image_prompt_and_seed(folders, kind):
    sampling = Sampling(0.7, 1.0, 10, 1)
    base = request(0, sampling=sampling)
    others = [
        request(0, sampling=sampling, image=png(9)),
        request(0, sampling=sampling, prompt="the wide river"),
        request(0, sampling=Sampling(0.7, 1.0, 10, 2)),
    ]
    first, *rest = (reply.text for reply in ask(folders[kind], [base, *others]))
    assert first not in rest


def test_in_process_greedy_equals_generate(folders):
    """Against the model's own decoding of one conversation."""
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    asked = request(0, sampling=Sampling(0.0, 1.0, 12))
    (reply,) = ask(folders["llava"], [asked])
    processor = AutoProcessor.from_pretrained(folders["llava"])
    model: Any = AutoModelForImageTextToText.from_pretrained(folders["llava"]).eval()
    image = Image.open(io.BytesIO(asked.image))
    text = f"user: <image>{asked.prompt} "
    inputs = processor(images=image, text=text, return_tensors="pt")
    with torch.no_grad():
        output = model.generate(**inputs, max_new_tokens=12, do_sample=False)
    prompt_tokens = inputs["input_ids"].shape[1]
    expected = processor.tokenizer.decode(output[0, prompt_tokens:], skip_special_tokens=True)
    assert reply.text == expected.strip()
    assert reply.prompt_tokens == prompt_tokens
    assert reply.completion_tokens == output.shape[1] - prompt_tokens


def test_in_process_says_why_an_answer_ends(folders, tmp_path):
    from transformers import AutoModelForImageTextToText, AutoProcessor

    short = request(0, sampling=Sampling(0.0, 1.0, 3))
    (cut,) = ask(folders["llava"], [short])
    assert (cut.finish_reason, cut.completion_tokens) == ("length", 3)
    # the second word that the model says becomes its end
    model: Any = AutoModelForImageTextToText.from_pretrained(folders["llava"])
    processor = AutoProcessor.from_pretrained(folders["llava"])
    inputs = processor(
        images=Image.open(io.BytesIO(short.image)),
        text=f"user: <image>{short.prompt} ",
        return_tensors="pt",
    )
    output = model.generate(**inputs, max_new_tokens=3, do_sample=False)[0].tolist()
    first, second = output[inputs["input_ids"].shape[1] :][:2]
    assert first != second
    model.generation_config.eos_token_id = [second]
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    (ended,) = ask(tmp_path, [short])
    assert (ended.finish_reason, ended.completion_tokens) == ("stop", 2)


def test_in_process_control_tokens_in_a_prompt_are_words(folders):
    """A caption that quotes a placeholder neither breaks the request nor opens a turn."""
    prompt = "the sign says <image> </s> <|im_end|> <img>"
    (reply,) = ask(folders["llava"], [request(0, prompt=prompt)])
    plain = ask(folders["llava"], [request(0, prompt="the sign says")])[0]
    assert reply.prompt_tokens > plain.prompt_tokens + 10  # letters, not four tokens


def test_in_process_broken_image_fails_alone(folders):
    broken = request(1, image=b"\x89PNG\r\n\x1a\nnothing")
    results = ask(folders["llava"], [request(0), broken, request(2)])
    assert results[0].text
    assert results[2].text
    assert isinstance(results[1], RequestFailedError)
    assert results[1].reason == "bad_image"


def test_in_process_model_that_does_not_load_stops_the_run(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "share4v"}')
    (problem,) = ask(tmp_path, [request()])
    assert isinstance(problem, ModelUnavailableError)
    assert "does not load in this process" in str(problem)


@pytest.mark.parametrize("kind", KINDS)
def test_in_process_runs_in_low_precision(folders, kind):
    first, second = (ask(folders[kind], [request(1)], dtype="bfloat16")[0] for _ in range(2))
    assert first.text == second.text != ""


def test_in_process_frees_its_memory_and_loads_again(folders):
    async def main():
        model = local_model(folders["llava"])
        first = await model.complete(request())
        await model.close()
        assert model._session is None
        second = await model.complete(request())
        await model.close()
        return first.text, second.text

    first, second = asyncio.run(main())
    assert first == second


def test_in_process_revision_follows_weights_and_settings(folders, tmp_path):
    save_tiny_vlm("llava", tmp_path / "a")
    save_tiny_vlm("llava", tmp_path / "b" / "a")
    first, second = (
        local_model(folder).revision for folder in (tmp_path / "a", tmp_path / "b" / "a")
    )
    assert first == second  # the same model elsewhere
    assert local_model(tmp_path / "a", dtype="bfloat16").revision != first
    assert local_model(tmp_path / "a", processor_options={"max_pixels": 9}).revision != first
    assert local_model(tmp_path / "a", batch_size=2, name="other").revision == first
    weights = tmp_path / "a" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert local_model(tmp_path / "a").revision != first
