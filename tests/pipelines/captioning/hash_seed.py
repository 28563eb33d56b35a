"""What captioning gives that sets and dictionaries are behind; run by test_hash_seed.py.

python -m tests.pipelines.captioning.hash_seed CITY REPORT TABLES...
"""

import asyncio
import hashlib
import json
import random
import sys
from pathlib import Path
from typing import Any

from pipelines.captioning.capture import ParsedCaption, consensus
from pipelines.captioning.records import Box, Request, Sampling, SourceImage
from pipelines.captioning.report import write_report
from pipelines.captioning.simulated import open_detector, open_model

from .test_capture import WORDS, encode

STREET = "harborview_001_001_sv0"


def scores() -> list[str]:
    """Of captions with random names in their sets."""

    def draw() -> list[str]:
        return random.sample([word + end for word in WORDS for end in ("", " lot", "s")], 6)

    random.seed(0)
    pool = [
        ParsedCaption(
            frozenset(draw()),
            {word: frozenset(draw()) for word in draw()},
            frozenset(zip(draw(), draw(), draw(), strict=True)),
        )
        for _ in range(15)
    ]
    return [score.hex() for score in consensus(pool, encode).tolist()]


def answers(city: str) -> list[str]:
    """Of a simulated model: long, local and merged."""
    model = open_model({"name": "synthetic-delta"}, city)

    def ask(task: str, **more: Any) -> str:
        request = Request(task, "", b"", Sampling(), STREET, "", "street_view", **more)
        return str(asyncio.run(model.complete(request)).text)

    long, part = ask("describe"), ask("local", box=Box(0, 0, 150, 300))
    rejected = ("tree", "leafy tree", "dog", "sky", "side")
    details = (part, "a bench and a dog")
    return [long, part, ask("merge", caption=long, details=details, rejected=rejected)]


def detected(city: str) -> str:
    """Scores of a simulated detector."""
    detector = open_detector({}, city)
    image = SourceImage(STREET, "street_view", "", b"")
    return detector.detect(image, ["tram", "sky", "trees"]).scores.tobytes().hex()


def reported(folder: Path, tables: list[Path]) -> dict[str, str]:
    """Hashes of the files of a report."""
    write_report(folder, tables, count_tokens=len, gallery_size=9)
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
    }


if __name__ == "__main__":
    city, report, *tables = sys.argv[1:]
    found = {
        "order": list({*WORDS}),
        "scores": scores(),
        "answers": answers(city),
        "detected": detected(city),
        "reported": reported(Path(report), list(map(Path, tables))),
    }
    print(json.dumps(found))
