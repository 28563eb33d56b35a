"""All that the stages work with, opened from a recipe."""

import asyncio
import importlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, TypeVar

from .clients import open_model
from .detectors import open_detector
from .encoder import PhraseCache, sentence_encoder
from .errors import CaptioningError
from .privacy import Blurrer
from .prompts import Prompts, load_prompts
from .recipe import Component, Recipe
from .records import CaptionModel, PhraseDetector, SceneGraphParser, Segmenter
from .scene_graph import open_parser
from .segment import open_segmenter

T = TypeVar("T")


class OneThread:
    """Runs the calls of something that is no good in several threads, one after another."""

    def __init__(self, name: str):
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name)

    async def __call__(self, function: Callable[..., T], *args: Any) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, partial(function, *args))

    def close(self) -> None:
        """Wait for what runs."""
        self._pool.shutdown()
