"""Records that pass through the stages, and protocols of models and components.

Records are frozen: stages return new ones (`dataclasses.replace`).
"""

from collections.abc import Sequence
from dataclasses import astuple, dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

View = Literal["street_view", "satellite"]
Task = Literal["describe", "local", "merge"]
PhraseKind = Literal["object", "attribute", "relation"]
PhraseSource = Literal["caption", "local"]


@dataclass(frozen=True)
class SourceImage:
    """An input image: encoded bytes as stored, and their hash in hexadecimal."""

    image_id: str
    view: View
    sha256: str
    data: bytes = field(repr=False)


@dataclass(frozen=True, order=True)
class Box:
    """Pixels `[top, top + height) x [left, left + width)` of the upright image."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True)
class Sampling:
    """Sampling parameters; temperature 0 is greedy decoding."""

    temperature: float = 0.2
    top_p: float = 1.0
    max_tokens: int = 512
    seed: int = 0


@dataclass(frozen=True)
class Request:
    """A request to a captioning model.

    Real models receive `prompt` and `image`; simulated models use the other fields.

    Attributes:
        image: JPEG bytes of the image or crop, as sent.
        image_sha256: Hash of the image as stored.
        box: Box of the crop; None for the full image.
        caption: Long caption, for a merge.
        details: Local captions without unsupported phrases, for a merge.
        rejected: Phrases that the image does not support, for a merge.
    """

    task: Task
    prompt: str
    image: bytes = field(repr=False)
    sampling: Sampling
    image_id: str
    image_sha256: str
    view: View
    box: Box | None = None
    caption: str = ""
    details: tuple[str, ...] = ()
    rejected: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reply:
    """Answer of a captioning model.

    Attributes:
        text: Text as received, stripped; never empty.
        finish_reason: "stop", "length", "content_filter" or another value from the server.
        prompt_tokens: Number of prompt tokens; 0 if not reported, as for `completion_tokens`.
        attempts: Number of requests sent.
        seconds: Time from the first request to the answer.
    """

    text: str
    finish_reason: str = "stop"
    prompt_tokens: int = 0
    completion_tokens: int = 0
    attempts: int = 1
    seconds: float = 0.0


@dataclass(frozen=True)
class SceneGraph:
    """Scene graph of a sentence, not normalised.

    Attributes are pairs (head, attribute), relations triples (subject head, relation, object head).
    """

    objects: tuple[str, ...] = ()
    attributes: tuple[tuple[str, str], ...] = ()
    relations: tuple[tuple[str, str, str], ...] = ()


@dataclass(frozen=True)
class Phrase:
    """A phrase of a caption, with its detector score.

    Attributes:
        text: Query to the detector, such as "red car".
        kind: "object", "attribute" (with its object) or "relation".
        source: "caption" (the long caption) or "local".
        sentence: Index of the sentence in the caption, or of the local caption.
        score: Detector score in [0, 1]; None if not scored.
        kept: Whether the image supports it, or it was not scored.
        reason: Reason for dropping it ("below_threshold") or not scoring it: "too_long" for the
            detector, "relation", or "not_visual" (such as "scene").
    """

    text: str
    kind: PhraseKind
    source: PhraseSource = "caption"
    sentence: int = 0
    score: float | None = None
    kept: bool = True
    reason: str = ""


@dataclass(frozen=True)
class LocalCaption:
    """Short caption of a salient box; after a failure, `text` is empty and `reason` is set."""

    box: Box
    text: str
    reason: str = ""


@dataclass(frozen=True)
class Usage:
    """Cost of a candidate: requests, tokens, waiting time in seconds, price."""

    requests: int = 0
    attempts: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    cost: float = 0.0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True)
class Scores:
    """Mean CAPTURE scores of a candidate against the other candidates of its image.

    `cross_model` is the score against candidates of other models only. None: no other candidate.
    """

    score: float | None = None
    object_f1: float | None = None
    attribute_f1: float | None = None
    relation_f1: float | None = None
    cross_model: float | None = None


@dataclass(frozen=True)
class Candidate:
    """A candidate caption of an image.

    Attributes:
        model_revision: Model id, revision and quantisation.
        prompt_version: Version of the prompt for the long caption.
        index: Index of the caption among those of its model and image.
        sampling: Sampling parameters of the long caption.
        stage: Last finished stage: "generate", "filter", "merge" or "consensus".
        text: Caption at this stage.
        generated: Long caption as generated, without control characters.
        finish_reason: Finish reason of `text`.
        details: Local captions by the same model.
        phrases: Phrases of the caption and of its local captions.
        flags: Findings that do not drop the candidate ("phone", "merge_refusal", ...).
        drop_reason: Reason for exclusion from the consensus, else empty.
        chosen: Whether it was chosen for its image.
    """

    image_id: str
    image_sha256: str
    view: View
    model: str
    model_revision: str
    prompt_version: str
    index: int
    sampling: Sampling
    stage: str = "generate"
    text: str = ""
    generated: str = ""
    finish_reason: str = ""
    details: tuple[LocalCaption, ...] = ()
    phrases: tuple[Phrase, ...] = ()
    flags: tuple[str, ...] = ()
    drop_reason: str = ""
    scores: Scores = Scores()
    chosen: bool = False
    usage: Usage = Usage()


class CaptionModel(Protocol):
    """A captioning model; a method `cost(prompt_tokens, completion_tokens)` is optional.

    Attributes:
        name: Name in the recipe, the tables and the reports.
        revision: Exact version; part of the ledger's keys.
        remote: Whether images leave this machine.
    """

    name: str
    revision: str
    remote: bool

    async def complete(self, request: Request) -> Reply:
        """Answer a request, limiting concurrency and retrying temporary failures.

        Raises:
            RequestFailedError: No usable answer.
        """
        ...

    async def close(self) -> None:
        """Release connections and memory."""
        ...


class Segmenter(Protocol):
    """Image segmenter; `revision` is part of the ledger's keys."""

    revision: str

    def masks(self, image: Image.Image) -> list[NDArray[np.bool_]]:
        """Masks `(H, W)` of an upright RGB image, in a fixed order and possibly overlapping."""
        ...


class SceneGraphParser(Protocol):
    """Scene graph parser; `revision` is part of the ledger's keys."""

    revision: str

    def parse(self, sentences: Sequence[str]) -> list[SceneGraph]:
        """Scene graph of each sentence, independent of the other sentences."""
        ...


class PhraseDetector(Protocol):
    """Phrase detector; `revision` is part of the ledger's keys."""

    revision: str

    def detect(self, source: SourceImage, phrases: Sequence[str]) -> NDArray[np.float32]:
        """Score of each phrase in [0, 1], `(phrases,)`; NaN for phrases that are too long."""
        ...
