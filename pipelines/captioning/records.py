"""The records that pass through the stages, and the protocols of the parts that stages call.

Records are frozen: a stage returns a new one (`dataclasses.replace`). The runner knows models only
by the protocols, so it treats a server and a simulated model alike.
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
    """An image of the input table.

    Attributes:
        image_id: Id in the table.
        view: "street_view" or "satellite".
        sha256: Hash of the encoded bytes, hexadecimal.
        data: Encoded bytes, as stored.
    """

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
    """How a model samples its answer; temperature 0 is greedy."""

    temperature: float = 0.2
    top_p: float = 1.0
    max_tokens: int = 512
    seed: int = 0


@dataclass(frozen=True)
class Request:
    """One question to a captioning model.

    A real model gets `prompt` and `image`; a simulated model answers from the other fields.

    Attributes:
        task: The stage that asks.
        prompt: The user's message, text only.
        image: Encoded bytes (JPEG) of the image or the crop, as they leave the machine.
        sampling: How to sample the answer.
        image_id: Id of the whole image.
        image_sha256: Hash of the whole image as stored.
        view: "street_view" or "satellite".
        box: The crop; None for the whole image.
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
    """The answer of a model.

    Attributes:
        text: Text as received, stripped; never empty.
        finish_reason: "stop", "length", "content_filter" or whatever the server reports.
        prompt_tokens: Counted by the server; 0 if it does not report them.
        completion_tokens: Likewise.
        attempts: Requests made.
        seconds: From the first request to the answer.
    """

    text: str
    finish_reason: str = "stop"
    prompt_tokens: int = 0
    completion_tokens: int = 0
    attempts: int = 1
    seconds: float = 0.0


@dataclass(frozen=True)
class SceneGraph:
    """Scene graph of a sentence; heads and words are not yet normalised.

    Attributes:
        objects: Entity heads.
        attributes: (head, attribute).
        relations: (subject head, relation, object head).
    """

    objects: tuple[str, ...] = ()
    attributes: tuple[tuple[str, str], ...] = ()
    relations: tuple[tuple[str, str, str], ...] = ()


@dataclass(frozen=True)
class Phrase:
    """A visual element that a caption names, with the detector's score.

    Attributes:
        text: Query to the detector, such as "red car".
        kind: "object" (bare), "attribute" (with one) or "relation".
        source: The long caption, or a local one.
        sentence: Number of the sentence in its text, or of the local caption.
        score: Score of the detector in [0, 1]; None if it was not asked.
        kept: Whether the image supports it, or there is no score.
        reason: Why it was dropped ("below_threshold") or has no score: "too_long" for the
            detector; a "relation", which it cannot judge; "not_visual", such as "scene".
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
    """The short caption of a salient box; where there is none, `text` is empty with a reason."""

    box: Box
    text: str
    reason: str = ""


@dataclass(frozen=True)
class Usage:
    """Cost of a candidate: requests, tokens, seconds of waiting, currency units."""

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
    """Mean CAPTURE of a candidate against the other candidates of its image.

    Attributes:
        score: Consensus; None if there is no other candidate.
        object_f1: Mean F1 of the objects.
        attribute_f1: Mean F1 of the attributes.
        relation_f1: Mean F1 of the relations.
        cross_model: Consensus with candidates of other models only.
    """

    score: float | None = None
    object_f1: float | None = None
    attribute_f1: float | None = None
    relation_f1: float | None = None
    cross_model: float | None = None


@dataclass(frozen=True)
class Candidate:
    """A caption on its way through the stages.

    Attributes:
        image_id: The image.
        image_sha256: Hash of the image's bytes.
        view: "street_view" or "satellite".
        model: Name in the recipe.
        model_revision: Model id, revision and quantisation.
        prompt_version: Version of the prompt of the long caption.
        index: Number of the caption among those of its model and image, from 0.
        sampling: Sampling of the long caption.
        stage: Last finished stage: "generate", "filter", "merge" or "consensus".
        text: The caption at this stage.
        generated: The long caption as the model wrote it, without control characters.
        finish_reason: Of `text`.
        details: Local captions of its model.
        phrases: Visual elements of the caption and of the details.
        flags: Findings that are no reason to drop it ("phone_number", "merge_refused", ...).
        drop_reason: Why it takes no part in the consensus; empty if it does.
        scores: Consensus.
        chosen: Whether it is the best of its image.
        usage: Cost.
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

    @property
    def candidate_id(self) -> str:
        """Unique among the candidates of an image: model and index."""
        return f"{self.model}#{self.index}"


class CaptionModel(Protocol):
    """A multimodal language model; a method `cost(prompt_tokens, completion_tokens)` is optional.

    Attributes:
        name: Name in the recipe, the tables and the reports.
        revision: Exact version; part of the ledger's keys.
        remote: Whether images leave this machine.
    """

    name: str
    revision: str
    remote: bool

    async def complete(self, request: Request) -> Reply:
        """Answer; limits its own concurrency and retries transient failures.

        Raises:
            RequestFailedError: There is no usable answer.
        """
        ...

    async def close(self) -> None:
        """Release connections and memory."""
        ...


class Segmenter(Protocol):
    """Segments an image. `revision` is part of the ledger's keys."""

    revision: str

    def masks(self, image: Image.Image) -> list[NDArray[np.bool_]]:
        """Masks `(H, W)` of an upright RGB image, in a fixed order; may overlap."""
        ...


class SceneGraphParser(Protocol):
    """Turns sentences into scene graphs. `revision` is part of the ledger's keys."""

    revision: str

    def parse(self, sentences: Sequence[str]) -> list[SceneGraph]:
        """One graph per sentence, which does not depend on the rest of the batch."""
        ...


class PhraseDetector(Protocol):
    """Scores phrases against an image. `revision` is part of the ledger's keys."""

    revision: str

    def detect(self, source: SourceImage, phrases: Sequence[str]) -> NDArray[np.float32]:
        """Score of each phrase in [0, 1]; NaN for one that is too long to be asked."""
        ...
