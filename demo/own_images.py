"""Uploaded images: embedding, zero-shot description and indicator estimates."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipelines.common.csv_files import write_csv
from pipelines.evaluation.embed.tables import BOTH, write_embeddings
from pipelines.evaluation.embed.text_tower import TextTower
from pipelines.evaluation.errors import InputError
from pipelines.evaluation.search.zero_shot import Prompts, read_prompts, score_view
from pipelines.prediction.predict import predict_new

from .cities import VIEW_TITLES, Cities, ShownCity, find, side_by_side
from .model import Towers
from .page import notice, render
from .pictures import PICTURE_SIDE, shrunk
from .region_card import estimate_lines, region_button
from .uploads import Uploads, read_uploads

SIMILAR = 6
REGION_ID = "uploaded"
EXAMPLE_STREET_VIEWS = 3
ORDER = ("street_view", "satellite")  # order of the views in concatenated vectors

Floats = NDArray[np.float32]


def answer(
    cities: Cities,
    towers: Towers,
    city: str,
    street_views: list[str] | None,
    satellite: str | None,
    example: str = "",
) -> tuple[str, list[str]]:
    """Embed, describe and compare uploaded images; user errors are returned as messages.

    Args:
        cities: Cities of the demo.
        towers: Image and text encoders.
        city: City whose regions the images are compared with and estimated from.
        street_views: Paths of the uploaded street views.
        satellite: Path of the uploaded satellite image.
        example: Region id of the example images; empty for uploads.

    Returns:
        HTML of the result, and paths of the downloads.
    """
    try:
        compared = find(cities, city, "city")
        uploads = read_uploads(street_views, satellite)
        vectors = {view: towers.encode_images(images).mean(0) for view, images in uploads.items()}
        return _html(compared, towers, uploads, vectors, example), _files(uploads, vectors, towers)
    except InputError as error:
        return notice(str(error)), []


def example_files(city: ShownCity, folder: Path) -> tuple[list[str], str | None]:
    """Write images of a city's first region: paths of street views and of a satellite image."""
    found: dict[str, list[str]] = {view: [] for view in ORDER}
    for view, pictures in city.pictures.items():
        for name in pictures.ids_of_region(city.opening)[:EXAMPLE_STREET_VIEWS]:
            path = folder / f"{view}_{len(found[view]) + 1}.jpg"
            path.write_bytes(pictures.stored(name)["bytes"])
            found[view].append(str(path))
    return found["street_view"], next(iter(found["satellite"]), None)


def _files(uploads: Uploads, vectors: Mapping[str, Floats], towers: Towers) -> list[str]:
    """Write the vectors as an embedding table (Parquet, as `evaluate.py embed` does) and as CSV."""
    folder = Path(tempfile.mkdtemp(prefix="urbanln-"))
    counts = {view: np.array([len(images)]) for view, images in uploads.items()}
    metadata = {"label": REGION_ID, "encoder": towers.name, "dim": towers.encoder.dim}
    rows = {view: vector[None] for view, vector in vectors.items()}
    write_embeddings(folder / "region.parquet", [REGION_ID], counts, rows, metadata)
    table = pd.DataFrame({"dimension": np.arange(towers.encoder.dim), **vectors})
    write_csv(folder / "region.csv", table, float_format="%.7g")
    return [str(folder / name) for name in ("region.parquet", "region.csv")]


def _html(
    city: ShownCity, towers: Towers, uploads: Uploads, vectors: Mapping[str, Floats], example: str
) -> str:
    view = BOTH if len(vectors) == 2 else next(iter(vectors))
    previews = [
        (f"{VIEW_TITLES[name]} {n}", shrunk(image, PICTURE_SIDE))
        for name, images in uploads.items()
        for n, image in enumerate(images, start=1)
    ]
    return render(
        "own",
        city=city,
        view=VIEW_TITLES[view],
        example=example,
        previews=previews,
        described=_described(towers.tower, vectors),
        compared=view in city.views,
        **(_compared(city, view, vectors) if view in city.views else {}),
    )


def _compared(city: ShownCity, view: str, vectors: Mapping[str, Floats]) -> dict[str, Any]:
    shown = city.views[view]
    parts = [vectors[name][None] for name in ORDER if name in vectors]
    similar = side_by_side(parts)[0] if len(parts) == 2 else parts[0][0]
    found = shown.predictions
    lines = []
    if found is not None:
        values = predict_new(found, np.concatenate(parts, axis=1)).iloc[0]
        lines = estimate_lines(city, values)
    return {
        "lines": [line for line in lines if not line["unlike"]],
        "unlike": [line for line in lines if line["unlike"]],
        "similar": [region_button(city, one) for one in shown.neighbours.search(similar, SIMILAR)],
    }


def _described(
    tower: TextTower | None, vectors: Mapping[str, Floats]
) -> dict[str, list[tuple[str, str, int]]]:
    """Map each view to attributes with their most likely class and its probability in percent."""
    if tower is None:
        return {}
    try:
        prompts = read_prompts()
    except InputError:  # a copy without configs/
        return {}
    return {
        VIEW_TITLES[view]: _meters(tower, prompts, view, vector) for view, vector in vectors.items()
    }


def _meters(
    tower: TextTower, prompts: Prompts, view: str, vector: Floats
) -> list[tuple[str, str, int]]:
    scores = iter(score_view(vector[None], view, prompts, tower.encode, tower.logit_scale)[0])
    meters = []
    for attribute in prompts.attributes:
        found = {name: float(next(scores)) for name in attribute.classes}
        best = max(found, key=lambda name: found[name])
        meters.append((attribute.name, best, round(100 * found[best])))
    return meters


__all__ = ["answer", "example_files"]
