"""A made-up run: candidates of drawn images, some of them hostile, as tables on disk."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from dataset_builders.images import encode_image
from pipelines.captioning.records import (
    Box,
    Candidate,
    LocalCaption,
    Phrase,
    Sampling,
    Scores,
    SourceImage,
    Usage,
)
from pipelines.captioning.tables import Reject, write_candidates, write_rejects

MODELS = ("adapter", "internvl", "qwen")
HOSTILE = (
    "<script>window.hacked = 1</script>",
    '"><img src=x onerror="window.hacked = 1">',
    "</script><script>window.hacked = 1</script><!--",
    '<a href="javascript:window.hacked=1">click</a>',
    "' onmouseover='window.hacked=1' x='",
    "<svg/onload=window.hacked=1>",
    "{{constructor.constructor('window.hacked=1')()}} ${window.hacked=1}",
    "</style><style>body{display:none}</style>",
    "\u202egnp.exe \x00\x07 \ud800 ]]> &lt;b&gt; <meta http-equiv=refresh content='0;url=x:'>",
)
SENTENCES = (
    "A wide road with four lanes runs through the middle of the picture.",
    "On the left stand tall office buildings with glass fronts.",
    "A red bus waits at a stop beside a row of young trees.",
    "Several people walk on the pavement under a cloudy sky.",
    "Parked cars line the right side of the street.",
    "A small park with benches lies behind the crossing.",
)
PHRASES = (
    ("wide road", 0.41),
    ("glass fronts", 0.05),
    ("red bus", 0.0031),
    ("young trees", 0.22),
    ("parked cars", 0.36),
    ("traffic light", 0.0004),
)


def drawn_image(number: int, size: tuple[int, int] = (480, 320)) -> bytes:
    """A street of coloured houses, other in every number."""
    rng = np.random.default_rng(number)
    image = Image.new("RGB", size, (150, 190, 230))
    draw = ImageDraw.Draw(image)
    width, height = size
    draw.rectangle((0, height * 2 // 3, width, height), fill=(90, 90, 95))
    for left in range(0, width, 60):
        top = int(rng.integers(height // 6, height // 2))
        colour = tuple(int(c) for c in rng.integers(60, 220, 3))
        draw.rectangle((left + 4, top, left + 56, height * 2 // 3), fill=colour)
    return encode_image(image)


def candidates_of(
    number: int,
    data: bytes,
    size: tuple[int, int] = (480, 320),
    failed: bool = False,
    hostile: bool = False,
    per_model: int = 2,
) -> list[Candidate]:
    """The candidates of an image; the best score is chosen."""
    rng = np.random.default_rng((7, number))
    image_id = HOSTILE[number % len(HOSTILE)] if hostile else f"street-{number:04d}"
    width, height = size
    boxes = [
        Box(height // 8, width // 16, height // 2, width // 4),
        Box(height // 2, width // 2, height // 3, width // 3),
        Box(height // 10, width * 3 // 5, height // 4, width // 5),
    ]
    made = []
    for model in MODELS:
        for index in range(per_model):
            chosen = rng.permutation(len(SENTENCES))[: int(rng.integers(3, 6))]
            generated = " ".join(SENTENCES[i] for i in chosen)
            if hostile:
                generated += " " + " ".join(HOSTILE)
            text = generated.replace("A red bus waits at a stop beside a row of", "There are")
            phrases = [
                Phrase(
                    phrase + (HOSTILE[place % len(HOSTILE)] if hostile else ""),
                    "attribute",
                    "caption" if place % 2 else "local",
                    place,
                    score,
                    score >= 0.01,
                    "" if score >= 0.01 else "below_threshold",
                )
                for place, (phrase, score) in enumerate(PHRASES)
                if rng.random() < 0.8
            ]
            phrases.append(Phrase("bus in front of trees", "relation", reason="relation"))
            drop = ("refusal" if rng.random() < 0.1 else "") or ("timeout" if failed else "")
            score = None if drop else float(rng.uniform(0.4, 0.8))
            made.append(
                Candidate(
                    image_id=image_id.encode("utf-8", "replace").decode(),
                    image_sha256=hashlib.sha256(data).hexdigest(),
                    view="street_view" if number % 3 else "satellite",
                    model=f"{model}{HOSTILE[1]}" if hostile and model == "qwen" else model,
                    model_revision=f"org/{model}@1",
                    prompt_version="street-3",
                    index=index,
                    sampling=Sampling(seed=index),
                    stage="consensus",
                    text="" if drop == "timeout" else _storable(text),
                    generated=_storable(generated),
                    finish_reason="stop",
                    details=tuple(
                        LocalCaption(box, _storable(sentence))
                        for box, sentence in zip(
                            boxes, HOSTILE if hostile else SENTENCES[1:], strict=False
                        )
                    ),
                    phrases=tuple(_storable_phrase(phrase) for phrase in phrases),
                    flags=("phone_number",) if number % 5 == 0 and index == 0 else (),
                    drop_reason=drop,
                    scores=Scores(score, score, score and score / 2, score and score / 3, score),
                    usage=Usage(5, 6, 1000, 200, 2.5, 0.001),
                )
            )
    scores = [one.scores.score or -1 for one in made]
    best = int(np.argmax(scores))
    if scores[best] > 0:
        made[best] = replace(made[best], chosen=True)
    return made


def _storable(text: str) -> str:
    """A table holds no lone surrogate; the rest of the hostility stays."""
    return text.encode("utf-8", "replace").decode()


def _storable_phrase(phrase: Phrase) -> Phrase:
    return replace(phrase, text=_storable(phrase.text))


class FakeRun:
    """Tables of candidates and rejects in a folder, and the images they are of."""

    def __init__(
        self,
        folder: Path,
        images: Sequence[tuple[bytes, tuple[int, int]]],
        hostile: Iterable[int] = (),
        failed: Iterable[int] = (),
        images_per_part: int = 8,
    ):
        hostile, failed = set(hostile), set(failed)
        self.groups = [
            candidates_of(number, data, size, number in failed, number in hostile)
            for number, (data, size) in enumerate(images)
        ]
        self.sources = [
            SourceImage(group[0].image_id, group[0].view, group[0].image_sha256, data)
            for group, (data, _) in zip(self.groups, images, strict=True)
        ]
        self.parts = []
        for start in range(0, len(self.groups), images_per_part):
            path = folder / f"part-{start:05d}.parquet"
            groups = self.groups[start : start + images_per_part]
            write_candidates(path, [one for group in groups for one in group])
            self.parts.append(path)
        rejects = [
            Reject(group[0].image_id, "image", "", "no_caption", "all dropped", 1)
            for group in self.groups
            if not any(one.chosen for one in group)
        ]
        rejects += [
            Reject("broken-1", "image", "", "truncated", "JPEG data end"),
            Reject("street-0001", "describe", "qwen", "timeout", "no answer", 4),
        ]
        self.rejects = [folder / "rejects.parquet"]
        write_rejects(self.rejects[0], rejects)

    @property
    def candidates(self) -> list[Candidate]:
        return [one for group in self.groups for one in group]

    @property
    def read_images(self) -> Callable[[frozenset[str]], Iterable[SourceImage]]:
        return lambda ids: (source for source in self.sources if source.image_id in ids)


def drawn_run(
    folder: Path, n: int = 12, hostile: Iterable[int] = (), failed: Iterable[int] = ()
) -> FakeRun:
    """A run over drawn images."""
    images = [(drawn_image(number), (480, 320)) for number in range(n)]
    return FakeRun(folder, images, hostile, failed)
