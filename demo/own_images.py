"""Pictures from outside: their vectors, a description by prompts, predictions, and how strange."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image

from pipelines.common.encoders.transformers_models import ModelEncoder
from pipelines.evaluation.embedding_tables import BOTH, write_embeddings
from pipelines.evaluation.errors import InputError
from pipelines.evaluation.prompts import Prompts, read_prompts
from pipelines.evaluation.zero_shot import score_view

from .cities import VIEW_TITLES, Cities, ShownCity
from .markup import SYNTHETIC, notice, picture, readable, text, titled
from .model import Towers
from .neighbours import FAR, side_by_side
from .pictures import THUMBNAIL_SIDE, shrunk
from .region_card import prediction_table, region_button
from .uploads import Upload, read_uploads

BATCH = 8
SIMILAR = 6
REGION_ID = "uploaded"
DOUBTFUL = 0.8
SAY_LITTLE = (
    "What pictures look like to the model, with the prejudices of what it was trained on; no "
    "measurement of how people live."
)

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Answer:
    """What the page shows and gives.

    Attributes:
        html: of the answer.
        files: to download; empty where there is no vector.
    """

    html: str
    files: list[str]


def answer(
    cities: Cities, towers: Towers, city: str, street_views: list[str] | None, satellite: str | None
) -> Answer:
    """Everything about uploaded pictures; what a user can mend comes back as a sentence.

    Args:
        cities: whose regions they are compared with.
        towers: of the model.
        city: whose probes predict.
        street_views: paths of uploaded files.
        satellite: path of an uploaded file.
    """
    try:
        if city not in cities:
            raise InputError(f"There is no city {city!r} here; there is {', '.join(cities)}.")
        upload = read_uploads(street_views, satellite)
        vectors = embed(towers.encoder, upload)
        return Answer(
            _html(cities[city], towers, upload, vectors), write_files(upload, vectors, towers)
        )
    except InputError as error:
        return Answer(notice(str(error)), [])


def embed(encoder: ModelEncoder, upload: Upload) -> dict[str, Floats]:
    """The mean vector `(D,)` of each view that has pictures."""
    return {view: _mean_vector(encoder, images) for view, images in upload.views.items()}


def _mean_vector(encoder: ModelEncoder, images: list[Image.Image]) -> Floats:
    found = [
        encoder.encode(
            torch.stack([encoder.prepare(image) for image in images[start : start + BATCH]])
        )
        for start in range(0, len(images), BATCH)
    ]
    return np.concatenate(found).mean(0)


def write_files(upload: Upload, vectors: Mapping[str, Floats], towers: Towers) -> list[str]:
    """The vectors as an embedding table (Parquet, as `evaluate.py embed` writes it) and as CSV."""
    folder = Path(tempfile.mkdtemp(prefix="urbanln-"))
    counts = {view: np.array([len(images)]) for view, images in upload.views.items()}
    metadata = {"label": REGION_ID, "encoder": towers.name, "dim": towers.encoder.dim}
    rows = {view: vector[None] for view, vector in vectors.items()}
    write_embeddings(folder / "region.parquet", [REGION_ID], counts, rows, metadata)
    table = pd.DataFrame({"dimension": np.arange(towers.encoder.dim), **vectors})
    table.to_csv(folder / "region.csv", index=False, float_format="%.7g")
    return [str(folder / name) for name in ("region.parquet", "region.csv")]


def _html(city: ShownCity, towers: Towers, upload: Upload, vectors: Mapping[str, Floats]) -> str:
    view = BOTH if len(vectors) == 2 else next(iter(vectors))
    previews = "".join(
        f"<figure>{picture(shrunk(image, THUMBNAIL_SIDE), f'{VIEW_TITLES[name]} {n}')}</figure>"
        for name, images in upload.views.items()
        for n, image in enumerate(images, start=1)
    )
    count = sum(map(len, upload.views.values()))
    parts = [f'<h4>Your {"picture" if count == 1 else f"{count} pictures"}</h4>',
             f'<div class="strip">{previews}</div>', _compared(city, view, vectors)]  # fmt: skip
    described = _description(towers, vectors)
    return f'<div class="own">{"".join(parts)}{described}</div>'


def _compared(city: ShownCity, view: str, vectors: Mapping[str, Floats]) -> str:
    """Warning, predictions and similar regions, where the city has the view."""
    mark = f" {SYNTHETIC}" if city.synthetic else ""
    if view not in city.views:
        return notice(
            f"{city.name} has no vectors of {VIEW_TITLES[view]}, so there is nothing to predict "
            "from. Drop pictures of the other view, or choose another city.", "warning"
        )  # fmt: skip
    shown, order = (
        city.views[view],
        [name for name in ("street_view", "satellite") if name in vectors],
    )
    parts = [vectors[name][None] for name in order]
    similar = side_by_side(parts)[0] if len(parts) == 2 else parts[0][0]
    warning = _warning(city, *shown.neighbours.strangeness(similar))
    values, widths = shown.probes.predict(np.concatenate(parts, axis=1)[0].astype(np.float64))
    found = shown.neighbours.search(similar, SIMILAR)
    buttons = "".join(region_button(city, one) for one in found)
    return (
        f"{warning}<h4>Predicted, as if it were a region of {titled(city.name)}{mark}</h4>"
        f"{prediction_table(city, values, widths)}"
        f'<p class="soft small">Mean of the ridge probes of all folds (protocol '
        f"<b>{shown.probes.protocol}</b>) on {VIEW_TITLES[view]}. The intervals presume a region "
        f"like those of {titled(city.name)}; for any other place they say nothing.</p>"
        f'<h4>Most similar in {titled(city.name)}{mark}</h4><div class="strip">{buttons}</div>'
    )


def _warning(city: ShownCity, distance: float, share: float) -> str:
    """How far it lies from what the probes have seen, in words."""
    if not np.isfinite(distance):
        return notice(f"{city.name} has too few regions to say how usual this is.", "warning")
    where = (
        f"its nearest region of {city.name} is at cosine distance {distance:.3f}, farther than "
        f"{100 * share:.0f} % of the city's regions are from their own nearest"
    )
    if share >= FAR:
        return notice(
            f"Far from the training data: {where}. Do not trust the predictions below.", "error"
        )
    if share >= DOUBTFUL:
        return notice(f"At the edge of the training data: {where}. Take care.", "warning")
    return notice(f"Within what the probes have seen: {where}.", "fine")


def _description(towers: Towers, vectors: Mapping[str, Floats]) -> str:
    try:
        prompts = read_prompts()
    except InputError:  # a copy without configs/
        return ""
    columns = "".join(_scores(towers, prompts, view, vector) for view, vector in vectors.items())
    return (
        f"<h4>Described by prompts, without any label</h4>{columns}"
        f'<p class="soft small">{SAY_LITTLE}</p>'
    )


def _scores(towers: Towers, prompts: Prompts, view: str, vector: Floats) -> str:
    tower = towers.tower
    scores = iter(score_view(vector[None], view, prompts, tower.encode, tower.logit_scale)[0])
    lines = []
    for attribute in prompts.attributes:
        found = {name: float(next(scores)) for name in attribute.classes}
        best = max(found, key=lambda name: found[name])
        lines.append(
            f'<div class="meter"><span>{readable(attribute.name)}: <b>{readable(best)}</b></span>'
            f'<i><b style="width:{100 * found[best]:.0f}%"></b></i>'
            f"<span>{100 * found[best]:.0f} %</span></div>"
        )
    return f'<p class="soft">{text(VIEW_TITLES[view])}</p>{"".join(lines)}'


__all__ = ["Answer", "answer", "embed", "write_files"]
