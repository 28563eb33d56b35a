"""Creation of the models and components of a recipe, which are loaded on first use."""

import asyncio
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import transformers

from .capture import REVISION as CAPTURE_REVISION
from .capture_parsing import parsing_revision
from .clients import open_model
from .encoder import PhraseCache, sentence_encoder
from .errors import CaptioningError
from .filters import Filters
from .image_filters import RunImages
from .inputs import list_shards, read_shard
from .phrases import RULES_VERSION as FILTER_RULES
from .privacy import Blurrer
from .prompts import Prompts
from .recipe import Component, Recipe
from .records import CaptionModel, PhraseDetector, SceneGraphParser, Segmenter, SourceImage
from .segment import BOXES_REVISION

T = TypeVar("T")
IMAGES_IN_CONSENSUS = 8
"""Images compared concurrently, whose new phrases are embedded in one batch."""
PARTS = {
    "segmenter": {
        "felzenszwalb": "segmenters:FelzenszwalbSegmenter",
        "mask-generation": "segmenters:MaskGenerationSegmenter",
    },
    "parser": {"factual": "scene_graph:FactualParser", "spacy": "grammar:SpacyParser"},
    "detector": {"owlv2": "detectors:Owlv2Detector", "simulated": "simulated:open_detector"},
}
"""Components by kind and name, as "module:callable" of this package. To add one, add a line."""


@dataclass(frozen=True)
class Kit:
    """Models and components of a run, by their protocols in `records`.

    Attributes:
        models: Captioning models by name, in the recipe's order.
        in_parser: Thread of the parser, which is not thread-safe.
        in_detector: Thread of the detector, which is not thread-safe.
        in_consensus: Threads that compute consensus scores.
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
        """Exact versions of all components."""
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
        """Whether faces and number plates are pixelated in images for the model."""
        blur = self.recipe.privacy.blur
        return blur == "always" or (blur == "remote" and model.remote)


async def in_threads(pool: ThreadPoolExecutor, function: Callable[..., T], *args: Any) -> T:
    """Run a function in a thread pool."""
    return await asyncio.get_running_loop().run_in_executor(pool, function, *args)


@contextmanager
def open_kit(recipe: Recipe) -> Iterator[Kit]:
    """Create all models and components of a recipe.

    Raises:
        DatasetError: Unknown name or option.
        ImportError: A package or a data file is missing.
    """
    # progress bars of weight loading would break the progress bar of the run
    transformers.utils.logging.disable_progress_bar()
    kit = Kit(
        recipe=recipe,
        models=open_models(recipe),
        segmenter=open_part("segmenter", recipe.segment.segmenter),
        parser=open_part("parser", recipe.filter.parser),
        detector=open_part("detector", recipe.filter.detector, recipe.dataset_name),
        encode=PhraseCache(sentence_encoder(recipe.consensus.encoder)),
        prompts=Prompts(recipe.prompts),
        blurrer=Blurrer(recipe.privacy.detector),
        filters=Filters(recipe.filters, _run_images(recipe)),
    )
    try:
        yield kit
    finally:
        for pool in (kit.in_parser, kit.in_detector, kit.in_consensus):
            pool.shutdown(cancel_futures=True)


def open_models(recipe: Recipe) -> dict[str, CaptionModel]:
    """Captioning models of a recipe by name, not yet connected or loaded."""
    return {model["name"]: open_model(model, recipe.dataset_name) for model in recipe.models}


def open_part(kind: str, component: Component, dataset_name: str = "") -> Any:
    """Create a segmenter, parser or detector.

    Args:
        kind: A key of `PARTS`.
        component: Name and options.
        dataset_name: Dataset of the run; only used by the simulated detector.

    Raises:
        CaptioningError: Unknown name or option.
        ImportError: A package or a data file is missing.
    """
    if component.name not in PARTS[kind]:
        raise CaptioningError(
            f"Unknown {kind} {component.name!r}; use one of {sorted(PARTS[kind])}."
        )
    options = dict(component.options)
    if component.name == "simulated":
        options["dataset_name"] = dataset_name
    try:
        part = pkgutil.resolve_name(f"{__package__}.{PARTS[kind][component.name]}")
        return part(**options)
    except TypeError as error:
        raise CaptioningError(
            f"Invalid options of the {kind} {component.name!r}: {error}."
        ) from error


def _run_images(recipe: Recipe) -> RunImages:
    def images() -> Iterator[SourceImage]:
        for shard in list_shards(recipe):
            yield from (row for row in read_shard(shard) if isinstance(row, SourceImage))

    def fingerprint() -> str:
        return " ".join(f"{shard.name} {shard.stamp}" for shard in list_shards(recipe))

    return RunImages(images, fingerprint, Path(recipe.output_dir))
