"""Models in this process's memory: any that transformers can load for image-text-to-text.

An answer depends on its request, not on the batch it came in, up to rounding: sampling is seeded
for each request (`sampling.SeededSampling`), and padding is masked. What remains is that matrix
products of other shapes round differently, by about 1e-6 in float32 and 1e-2 in bfloat16; where two
tokens all but tie, a request may then get another word in another batch. `dtype: float32` makes
that rare, `batch_size: 1` excludes it.

Of a checkpoint's generation settings, penalties and end tokens are kept; temperature and top-p are
the request's, and nothing else cuts the distribution.
"""

import asyncio
import gc
import hashlib
import io
import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ..errors import ModelUnavailableError, RequestFailedError
from ..records import Reply, Request
from .batching import MicroBatcher
from .sampling import SeededSampling
from .settings import InProcessSettings, exact_revision
from .wire import plain_text, without_thoughts

_EDGE_BYTES = 2**20


class InProcessModel:
    """A `records.CaptionModel` by transformers.

    Loaded when the first request comes, and again after `close`.

    Args:
        settings: of the recipe.
    """

    in_process = True
    remote = False

    def __init__(self, settings: InProcessSettings):
        self.settings = settings
        self.name = settings.name
        self.revision = _revision(settings)
        self._session: _Session | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, {self.revision!r})"

    async def complete(self, request: Request) -> Reply:
        """Answer, together with others that ask at the same time.

        Raises:
            RequestFailedError: an image that cannot be read, memory that does not suffice for it
                alone, or no text.
            ModelUnavailableError: the model does not load.
        """
        loop = asyncio.get_running_loop()
        if self._session is None or self._session.loop is not loop:
            self._session = _Session(self.settings)
        return await self._session.complete(request)

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Price of an answer, in the currency of the recipe's prices."""
        return self.settings.cost(prompt_tokens, completion_tokens)

    async def close(self) -> None:
        """Free the memory."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()
            del session
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


class _Session:
    """A loaded model, its thread and its batches, in one event loop."""

    def __init__(self, settings: InProcessSettings):
        self.loop = asyncio.get_running_loop()
        self._settings = settings
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"model-{settings.name}")
        self._loading: asyncio.Future[_Loaded] | None = None
        self._batches: MicroBatcher[Request, Reply] | None = None

    async def close(self) -> None:
        if self._batches is not None and self.loop is asyncio.get_running_loop():
            await self._batches.aclose()
        self._thread.shutdown(cancel_futures=True)

    async def complete(self, request: Request) -> Reply:
        started = time.monotonic()
        if self._loading is None:
            self._loading = self.loop.run_in_executor(self._thread, _load, self._settings)
        loaded = await asyncio.shield(self._loading)
        if self._batches is None:
            self._batches = MicroBatcher(
                loaded.answer,
                self._settings.batch_size,
                self._thread,
                group=lambda one: one.sampling.max_tokens,
            )
        try:
            reply = await self._batches(request)
        except RequestFailedError:
            raise
        except torch.OutOfMemoryError as error:
            raise RequestFailedError("out_of_memory", str(error)[:200]) from error
        except Exception as error:
            raise RequestFailedError("generation_error", repr(error)[:200]) from error
        if not reply.text:
            raise RequestFailedError("empty", f"finish reason {reply.finish_reason!r}")
        return Reply(
            reply.text,
            reply.finish_reason,
            reply.prompt_tokens,
            reply.completion_tokens,
            seconds=time.monotonic() - started,
        )


@dataclass(frozen=True)
class _Loaded:
    """A model and its processor."""

    model: Any
    processor: Any
    control_tokens: tuple[str, ...]

    @torch.inference_mode()
    def answer(self, requests: list[Request]) -> list[Reply]:
        """Answers to requests with one `max_tokens`; texts may be empty."""
        from transformers import LogitsProcessorList

        inputs = self._inputs(requests)
        prompt_tokens = inputs["attention_mask"].sum(1).tolist()
        inputs = {name: value.to(self.model.device) for name, value in inputs.items()}
        for name, value in inputs.items():
            if value.is_floating_point():
                inputs[name] = value.to(self.model.dtype)
        generated = self.model.generate(
            **inputs,
            do_sample=False,
            num_beams=1,
            max_new_tokens=requests[0].sampling.max_tokens,
            pad_token_id=self.processor.tokenizer.pad_token_id,
            logits_processor=LogitsProcessorList([SeededSampling([r.sampling for r in requests])]),
        )
        rows = generated[:, inputs["input_ids"].shape[1] :].tolist()
        return [self._reply(row, count) for row, count in zip(rows, prompt_tokens, strict=True)]

    def _inputs(self, requests: list[Request]) -> dict[str, Any]:
        conversations = [
            [
                {
                    "role": "user",
                    "content": [
                        {"type": "image", "image": _open_image(request.image)},
                        {"type": "text", "text": self._plain(request.prompt)},
                    ],
                }
            ]
            for request in requests
        ]
        inputs = self.processor.apply_chat_template(
            conversations,
            tokenize=True,
            add_generation_prompt=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True},
        )
        return dict(inputs)

    def _plain(self, prompt: str) -> str:
        """The prompt without anything that the tokenizer would take for a control token."""
        prompt = plain_text(prompt)
        for token in self.control_tokens:
            prompt = prompt.replace(token, f"{token[0]} {token[1:]}")
        return prompt

    def _reply(self, row: list[int], prompt_tokens: int) -> Reply:
        ends = self.model.generation_config.eos_token_id
        ends = [ends] if isinstance(ends, int) else (ends or [])
        length = next((i for i, token in enumerate(row) if token in ends), None)
        finish_reason = "length" if length is None else "stop"
        tokens = row if length is None else row[:length]
        text = self.processor.tokenizer.decode(tokens, skip_special_tokens=True)
        counted = len(row) if length is None else length + 1
        return Reply(without_thoughts(text).strip(), finish_reason, prompt_tokens, counted)


def _load(settings: InProcessSettings) -> _Loaded:
    """Load; runs in the thread.

    Raises:
        ModelUnavailableError: it cannot be.
    """
    from transformers import AutoModelForImageTextToText, AutoProcessor

    revision = "main" if Path(settings.model).is_dir() else settings.revision
    try:
        processor = AutoProcessor.from_pretrained(
            settings.model, revision=revision, **settings.processor_options
        )
        model = AutoModelForImageTextToText.from_pretrained(
            settings.model, revision=revision, dtype=settings.dtype
        )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        raise ModelUnavailableError(
            f"Model {settings.name!r} ({settings.model}) does not load in this process: {error} "
            f"If transformers has no class for it, serve it and use client openai."
        ) from error
    tokenizer = getattr(processor, "tokenizer", None)
    if tokenizer is None or not getattr(processor, "chat_template", None):
        raise ModelUnavailableError(
            f"Model {settings.name!r} ({settings.model}) has no chat template: its processor "
            f"cannot write a conversation with an image."
        )
    tokenizer.padding_side = "left"  # answers begin where prompts end
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if model.generation_config.eos_token_id is None:
        model.generation_config.eos_token_id = tokenizer.eos_token_id
    device = settings.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    model.eval().to(device=torch.device(device))
    return _Loaded(model, processor, _control_tokens(tokenizer))


def _control_tokens(tokenizer: Any) -> tuple[str, ...]:
    """Marks that the tokenizer reads as one token wherever they stand, the longest first."""
    added = {str(token) for token in tokenizer.added_tokens_decoder.values()}
    found = added | set(tokenizer.all_special_tokens)
    found = {token for token in found if len(token) > 1 and not token.strip().isalnum()}
    return tuple(sorted(found, key=lambda token: (-len(token), token)))


def _open_image(data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data)).convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise RequestFailedError("bad_image", str(error)) from error


def _revision(settings: InProcessSettings) -> str:
    folder = Path(settings.model)
    parts = {"dtype": settings.dtype, "processor_options": settings.processor_options}
    if folder.is_dir():  # by what is in it: other machines have it elsewhere
        return exact_revision(folder.resolve().name, _fingerprint(folder), parts)
    return exact_revision(settings.model, settings.revision, parts)


def _fingerprint(folder: Path) -> str:
    """Hash of a model's folder: names, sizes, and of every file the first and the last megabyte.

    Training moves all weights, so that nobody need read gigabytes to see that they differ.
    """
    digest = hashlib.sha256()
    for path in sorted(one for one in folder.iterdir() if one.is_file()):
        size = path.stat().st_size
        digest.update(json.dumps([path.name, size]).encode())
        with path.open("rb") as file:
            digest.update(file.read(_EDGE_BYTES))
            file.seek(max(size - _EDGE_BYTES, 0))
            digest.update(file.read(_EDGE_BYTES))
    return digest.hexdigest()[:16]


__all__ = ["InProcessModel"]
