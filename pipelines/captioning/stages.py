"""The stages of one image: describe, filter, merge, consensus.

Each asks the ledger first, so going through them again costs nothing where nothing has changed.
A stage takes the candidates and returns new ones; what fails is marked, never left out.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

from dataset_builders.images import BadImageError

from .capture import consensus_scores, choose
from .capture_parsing import parsed_caption
from .encoder import PhraseCache
from .errors import RequestFailedError
from .filters import phrases_of, score_phrases
from .guards import check_caption, tidy_caption
from .ledger import Ledger, Unit, unit_key
from .picture import Picture
from .privacy import Blurrer, redact_text, scan_text
from .prompts import Prompts
from .recipe import Recipe
from .records import (
    Box,
    Candidate,
    CaptionModel,
    LocalCaption,
    Phrase,
    PhraseDetector,
    Request,
    Sampling,
    SceneGraph,
    SceneGraphParser,
    Scores,
    Segmenter,
    Usage,
)
from .refine import apply_merge, fall_back, merge_inputs, needs_merge
from .scene_graph import split_sentences
from .segment import salient_boxes

T = TypeVar("T")


@dataclass(frozen=True)
class Kit:
    """What the stages work with."""

    recipe: Recipe
    models: Mapping[str, CaptionModel]
    segmenter: Segmenter
    parser: SceneGraphParser
    detector: PhraseDetector
    encode: PhraseCache
    prompts: Prompts
    blurrer: Blurrer
    thread: Callable[..., Any]

    def blurred_for(self, model: CaptionModel) -> bool:
        """Whether the model gets the image with faces and plates made unreadable."""
        blur = self.recipe.privacy.blur
        return blur == "always" or (blur == "remote" and model.remote)
