"""RSICD: overhead images with five short human captions each.

Layout: `captions.json` (a list of {file, captions, class, split}) and `images/`. The table of
captions contains all captions; the caption of an image consists of its distinct captions in random
order. Without locations and indicators, every image is a region with a scene class.
"""

import json
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dataset_builders.captions import caption_text, join_sentences, plain_text
from dataset_builders.errors import SourceError
from dataset_builders.importers.base import Imported, require
from dataset_builders.importers.image_folder import plan_from_frame
from dataset_builders.schema import DatasetMetadata, config_name

SUMMARY = "overhead images with five human captions each (RSICD)"
CITY = "rsicd"
LAYOUT = "captions.json and the folder images/"
SOURCE = "RSICD, https://github.com/201528014227051/RSICD_optimal"


METADATA = DatasetMetadata(
    title="RSICD: overhead images with human captions",
    description=(
        "Overhead images of 224 pixels with five short human captions each, from the RSICD "
        "collection. Without locations and indicators, they serve image-text training only."
    ),
    source=SOURCE,
    licence="not stated",
    indicators=(),
    extra_columns={
        "regions": {"scene_class": "string", "split_author": "string"},
        "captions": {"candidate": "int32"},
    },
    parameters={"importer": "rsicd"},
    notes=(
        "The caption of an image consists of its distinct human captions in random order; the "
        "table of captions contains all five originals.",
        "Many captions occur for several images: treat identical texts as matches in retrieval.",
        "Every image is a region without a geometry; `scene_class` is its RSICD class.",
    ),
    citation="Lu, Wang, Zheng, Li: Exploring Models and Data for Remote Sensing Image Caption "
    "Generation. IEEE TGRS 56(4), 2017.",
)


def read(source: Path) -> Imported:
    """Read RSICD."""
    require(source, "captions.json", "images", layout=LAYOUT)
    records = pd.DataFrame(_read(source / "captions.json"))
    ids = [Path(file).stem for file in records["file"]]
    pairs = zip(records["captions"], ids, strict=True)
    frame = records.assign(
        file="images/" + records["file"],
        image_id=ids,
        region_id=ids,
        caption=np.array([joined_caption(texts, image_id) for texts, image_id in pairs], object),
        caption_model="human",
        source=SOURCE,
    )
    captions, rejects = [], []
    # the first record of duplicate files, as for the images
    first = frame.drop_duplicates("image_id")
    for image_id, texts in zip(first["image_id"], first["captions"], strict=True):
        for number, text in enumerate(texts):
            cleaned, reason = caption_text(text)
            if cleaned is None:
                reject = config_name(CITY, "captions"), image_id, reason, f"caption {number}"
                rejects.append(reject)
            else:
                captions.append(_candidate(image_id, number, cleaned))
    by_id = frame.drop_duplicates("image_id", keep="last").set_index("image_id")
    by_id = by_id.reindex(columns=["class", "split"]).astype(object)
    plan = plan_from_frame(
        frame,
        source,
        city=CITY,
        view="satellite",
        indicators=(),
        region_columns={
            "scene_class": by_id["class"].to_dict(),
            "split_author": by_id["split"].to_dict(),
        },
        rejects=rejects,
        captions=captions,
    )
    return [plan], METADATA


def joined_caption(captions: list[str], image_id: str, seed: int = 0) -> str | None:
    """Join the distinct captions as sentences, in random order by image ID and seed."""
    sentences = list(dict.fromkeys(filter(None, map(_sentence, captions))))
    order = np.random.default_rng((seed, zlib.crc32(image_id.encode()))).permutation(len(sentences))
    return join_sentences([sentences[index] for index in order])


def _sentence(text: str) -> str:
    # undo tokenisation: "grass is green ."
    return re.sub(r"\s+([.,;:!?])", r"\1", plain_text(text) or "")


def _candidate(image_id: str, number: int, text: str) -> dict[str, Any]:
    # the number distinguishes identical captions by different annotators
    own = {"image_id": image_id, "model": "human", "stage": "human", "candidate": number}
    return {**own, "text": text, "kept": True}


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise SourceError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(records, list) or not all(
        isinstance(one, dict) and isinstance(one.get("captions"), list) and one.get("file")
        for one in records
    ):
        raise SourceError(f"{path} must be a list of objects with `file` and `captions`.")
    return records
