"""What flows through the stages, and what a stage may be made of.

The records are frozen: a stage returns a new one (`dataclasses.replace`). The protocols are all
that the runner knows of models, so that a server, a local model and a simulated one are the same
to it.
"""

from collections.abc import Sequence
from dataclasses import astuple, dataclass, field
from typing import Literal, Protocol, runtime_checkable

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
        image_id: of the table.
        view: "street_view" or "satellite".
        sha256: of the encoded bytes, hexadecimal.
        data: the encoded bytes, as stored.
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
    """How a model draws its answer; temperature 0 is greedy."""

    temperature: float = 0.2
    top_p: float = 1.0
    max_tokens: int = 512
    seed: int = 0


@dataclass(frozen=True)
class Request:
    """One question to a captioning model.

    `prompt` and `image` are what a real model gets. The rest says what the question is about: it
    goes into the ledger, and a simulated model answers from it.

    Attributes:
        task: which stage asks.
        prompt: the user's message, text only.
        image: encoded bytes (JPEG or PNG) of the image or the crop, as they leave the machine.
        sampling: how to draw the answer.
        image_id: of the whole image.
        image_sha256: of the whole image as stored.
        view: "street_view" or "satellite".
        box: of the crop, None for the whole image.
        caption: the long caption, for a merge.
        details: the local captions that survived, for a merge.
        rejected: the phrases the image does not support, for a merge.
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
    """What a model answered.

    Attributes:
        text: as it came, white space at the ends removed; never empty.
        finish_reason: "stop", "length", "content_filter" or what else the server says.
        prompt_tokens: counted by the model; 0 if it does not say.
        completion_tokens: the same.
        attempts: requests it took.
        seconds: from the first request to the answer.
    """

    text: str
    finish_reason: str = "stop"
    prompt_tokens: int = 0
    completion_tokens: int = 0
    attempts: int = 1
    seconds: float = 0.0


@dataclass(frozen=True)
class SceneGraph:
    """What a sentence says, as the parser read it: heads and words not yet normalised.

    Attributes:
        objects: entity heads.
        attributes: (head, attribute).
        relations: (subject head, relation, object head).
    """

    objects: tuple[str, ...] = ()
    attributes: tuple[tuple[str, str], ...] = ()
    relations: tuple[tuple[str, str, str], ...] = ()


@dataclass(frozen=True)
class Phrase:
    """A visual element that a caption names, and what the detector says of it.

    Attributes:
        text: as it is asked of the detector, such as "red car".
        kind: "object" (bare), "attribute" (with one) or "relation".
        source: the long caption, or a local one.
        sentence: number of the sentence in its text, or of the local caption.
        score: of the detector in [0, 1]; None if it was not asked.
        kept: the image supports it, or nobody could say.
        reason: why it was dropped, or why it has no score ("below_threshold", "not_arg_max",
            "too_long", "relation", ...); empty if it was kept by its score.
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
    """The short caption of one salient box; `text` is empty where there is none, for a reason."""

    box: Box
    text: str
    reason: str = ""


@dataclass(frozen=True)
class Usage:
    """What a candidate cost: requests, tokens, seconds of waiting, currency units."""

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
    """CAPTURE of a candidate against the other candidates of its image, mean over them.

    Attributes:
        score: the consensus; None if there is no other candidate.
        object_f1: mean of the objects' F1.
        attribute_f1: of the attributes.
        relation_f1: of the relations.
        cross_model: the mean over candidates of other models only.
    """

    score: float | None = None
    object_f1: float | None = None
    attribute_f1: float | None = None
    relation_f1: float | None = None
    cross_model: float | None = None


@dataclass(frozen=True)
class Candidate:
    """A caption on its way through the stages; the one record that flows through.

    Attributes:
        image_id: of the image.
        image_sha256: of the image's bytes.
        view: "street_view" or "satellite".
        model: name in the recipe.
        model_revision: what answered, exactly: model id, revision, quantisation.
        prompt_version: of the prompt that asked for the long caption.
        index: which of the model's captions of this image, from 0.
        sampling: of the long caption.
        stage: the last one that has been done: "generate", "filter", "merge", "consensus".
        text: the caption as it stands now.
        generated: the long caption as the model first wrote it, less control characters.
        finish_reason: of `text`.
        details: the local captions of its model.
        phrases: every visual element of the caption and of the details.
        flags: what is worth knowing and no reason to drop ("phone_number", "merge_refused", ...).
        drop_reason: why it takes no part in the consensus; empty if it does.
        scores: of the consensus.
        chosen: the best of its image.
        usage: what it cost.
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


@runtime_checkable
class CaptionModel(Protocol):
    """A multimodal language model, wherever it runs.

    Attributes:
        name: in the recipe, the tables and the reports.
        revision: what answers, exactly; part of the ledger's keys.
        remote: images leave this machine.
    """

    name: str
    revision: str
    remote: bool

    async def complete(self, request: Request) -> Reply:
        """Answer; bounds its own concurrency, retries what may pass.

        Raises:
            RequestFailedError: there is no usable answer.
        """
        ...

    async def close(self) -> None:
        """Let go of connections and memory."""
        ...


@runtime_checkable
class Segmenter(Protocol):
    """Finds the things in an image. `revision` is part of the ledger's keys."""

    revision: str

    def masks(self, image: Image.Image) -> list[NDArray[np.bool_]]:
        """Masks `(H, W)` of an upright RGB image, in a fixed order; may overlap."""
        ...


@runtime_checkable
class SceneGraphParser(Protocol):
    """Reads sentences. `revision` is part of the ledger's keys."""

    revision: str

    def parse(self, sentences: Sequence[str]) -> list[SceneGraph]:
        """A graph for each sentence; the same whatever else is in the batch."""
        ...


@dataclass(frozen=True)
class Detection:
    """What an open-vocabulary detector sees.

    Attributes:
        scores: `(patches, phrases)` float32 in [0, 1]; NaN in the column of a phrase that could
            not be asked (too long).
        boxes: `(patches, 4)` float32, xyxy in pixels of the upright image.
    """

    scores: NDArray[np.float32]
    boxes: NDArray[np.float32]


@runtime_checkable
class PhraseDetector(Protocol):
    """Looks for phrases in an image. `revision` is part of the ledger's keys."""

    revision: str

    def detect(self, source: SourceImage, phrases: Sequence[str]) -> Detection:
        """The image tower runs once, however many phrases there are."""
        ...


__all__ = [
    "Box",
    "Candidate",
    "CaptionModel",
    "Detection",
    "LocalCaption",
    "Phrase",
    "PhraseDetector",
    "Reply",
    "Request",
    "Sampling",
    "SceneGraph",
    "SceneGraphParser",
    "Scores",
    "Segmenter",
    "SourceImage",
    "Usage",
]
