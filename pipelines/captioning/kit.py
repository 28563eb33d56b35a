"""The parts that a recipe names, opened; models load or connect when they are first asked."""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import transformers

from .capture import REVISION as CAPTURE_REVISION
from .capture_parsing import parsing_revision
from .clients import open_model
from .detectors import open_detector
from .encoder import PhraseCache, sentence_encoder
from .errors import CaptioningError
from .filters import Filters, RunImages
from .inputs import list_shards, read_shard
from .phrases import RULES_VERSION as FILTER_RULES
from .privacy import Blurrer
from .prompts import Prompts, load_prompts
from .recipe import Component, Recipe
from .records import (
    CaptionModel,
    PhraseDetector,
    SceneGraphParser,
    Segmenter,
    SourceImage,
)
from .scene_graph import open_parser
from .segment import BOXES_REVISION, salient_boxes
from .segmenters import open_segmenter

T = TypeVar("T")
IMAGES_IN_CONSENSUS = 8
"""Several at once, so that their new phrases are embedded in one batch."""


@dataclass(frozen=True)
class Kit:
    """Everything that the stages call.

    Attributes:
        recipe: The run.
        models: Models by name, in the recipe's order.
        segmenter: Finds things in an image.
        parser: Turns sentences into scene graphs.
        detector: Scores phrases against an image.
        encode: Embeds phrases, each once.
        prompts: Prompt templates.
        blurrer: Makes faces and number plates unreadable.
        filters: Drop images and captions.
        in_parser: Thread of the parser, which is not thread-safe.
        in_detector: Thread of the detector, which is not thread-safe.
        in_consensus: Threads that compare captions.
    """

    recipe: Recipe
    models: Mapping[str, CaptionModel]
    segmenter: Segmenter
    parser: SceneGraphParser
    detector: PhraseDetector
    encode: PhraseCache
    prompts: Prompts
    blurrer: Blurrer
    filters: Filters
    in_parser: ThreadPoolExecutor = field(default_factory=partial(ThreadPoolExecutor, 1))
    in_detector: ThreadPoolExecutor = field(default_factory=partial(ThreadPoolExecutor, 1))
    in_consensus: ThreadPoolExecutor = field(
        default_factory=partial(ThreadPoolExecutor, IMAGES_IN_CONSENSUS)
    )

    @property
    def revisions(self) -> dict[str, str]:
        """Exact versions of all parts."""
        parts = {
            "segmenter": f"{self.segmenter.revision} {BOXES_REVISION}",
            "parser": self.parser.revision,
            "detector": f"{self.detector.revision} {FILTER_RULES}",
            "encoder": self.encode.revision,
            "prompts": self.prompts.revision,
            "capture": f"{CAPTURE_REVISION} {parsing_revision()}",
            "blurrer": self.blurrer.revision,
        }
        return parts | {f"model {name}": model.revision for name, model in self.models.items()}

    def blurred_for(self, model: CaptionModel) -> bool:
        """Whether the model gets images with faces and plates made unreadable."""
        blur = self.recipe.privacy.blur
        return blur == "always" or (blur == "remote" and model.remote)

    async def close_models(self) -> None:
        """Release the models' connections and memory."""
        for model in self.models.values():
            await model.close()


async def in_threads(pool: ThreadPoolExecutor, function: Callable[..., T], *args: Any) -> T:
    """Call a function in one of the threads of a pool."""
    return await asyncio.get_running_loop().run_in_executor(pool, function, *args)


@contextmanager
def open_kit(recipe: Recipe) -> Iterator[Kit]:
    """Open everything that a recipe names.

    Raises:
        CaptioningError: A name or an option that does not exist.
        MissingDependencyError: A package or a data file is missing.
    """
    # progress bars of loading weights would break the run's own
    transformers.utils.logging.disable_progress_bar()
    _check_boxes(recipe)
    kit = Kit(
        recipe=recipe,
        models=open_models(recipe),
        segmenter=_open(open_segmenter, recipe.segment.segmenter),
        parser=_open(open_parser, recipe.filter.parser),
        detector=_open_detector(recipe, recipe.filter.detector),
        encode=PhraseCache(sentence_encoder(recipe.consensus.encoder)),
        prompts=load_prompts(recipe.prompts),
        blurrer=Blurrer(recipe.privacy.detector),
        filters=open_filters(recipe),
    )
    with ExitStack() as stack:
        for pool in (kit.in_parser, kit.in_detector, kit.in_consensus):
            stack.callback(pool.shutdown, cancel_futures=True)
        yield kit


def open_models(recipe: Recipe) -> dict[str, CaptionModel]:
    """The captioning models of a recipe by name; none is connected or loaded yet."""
    return {model["name"]: open_model(model, recipe.dataset_name) for model in recipe.models}


def open_filters(recipe: Recipe) -> Filters:
    """The filters of a recipe, which may look at all its images."""

    def images() -> Iterator[SourceImage]:
        for shard in list_shards(recipe):
            for row in read_shard(recipe, shard):
                if isinstance(row, SourceImage):
                    yield row

    def fingerprint() -> str:
        return " ".join(f"{shard.name} {shard.stamp}" for shard in list_shards(recipe))

    filters = Filters(recipe.filters)
    filters.prepare(RunImages(images, fingerprint, Path(recipe.output_dir)))
    return filters


def _check_boxes(recipe: Recipe) -> None:
    """Find wrong options now, not at the first image."""
    try:
        salient_boxes([], (1, 1), **recipe.segment.boxes)
    except TypeError as error:
        raise CaptioningError(f"`segment.boxes` has an unknown option: {error}") from error


def _open(opener: Callable[..., T], component: Component) -> T:
    return opener(component.name, **component.options)


def _open_detector(recipe: Recipe, component: Component) -> PhraseDetector:
    if component.name == "simulated":
        from .simulated import open_detector as open_simulated

        return open_simulated(component.options, recipe.dataset_name)
    return _open(open_detector, component)


__all__ = ["Kit", "in_threads", "open_kit", "open_models"]
