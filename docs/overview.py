"""Draw the figure at the top of the README from the output of `make quickstart`.

python docs/overview.py runs/quickstart docs/overview_synthetic.jpg

It shows the images, caption and embedding of one region, and the population of every region beside
the predictions of a ridge probe in held-out districts. The city is synthetic and labelled as such.
"""

import io
import sys
import textwrap
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
from datasets import load_dataset
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from pipelines.evaluation.probe.predictions import PREDICTIONS_FOLDER, current_predictions

CITY, INDICATOR, CAPTION_CHARACTERS = "harborview", "population", 330
WANTED = {"system": "urbanln", "view": "satellite", "probe": "ridge", "protocol": "block"}


def main(run: Path, output: Path) -> None:
    """Draw the figure from the output folder of a quickstart."""
    results = run / "results" / CITY
    regions = gpd.read_parquet(run / "dataset" / "data" / f"{CITY}-regions")
    predictions = current_predictions(results, PREDICTIONS_FOLDER)
    for name, value in {**WANTED, "indicator": INDICATOR}.items():
        predictions = predictions[predictions[name] == value]
    predicted = predictions.groupby("region_id")["prediction"].mean()
    regions["truth"] = np.log1p(regions[INDICATOR])
    regions["predicted"] = regions["region_id"].map(predicted)
    # a typical built-up region, with streets, houses and some vegetation
    region_id = regions.iloc[(regions["truth"] - regions["truth"].quantile(0.8)).abs().argmin()][
        "region_id"
    ]
    vectors = pd.read_parquet(run / "embeddings" / CITY / "urbanln.parquet").set_index("region_id")

    figure = Figure(figsize=(12, 3.2), dpi=130, facecolor="white")
    grid = figure.add_gridspec(
        2, 5, width_ratios=[1, 1.5, 0.4, 1.75, 1.75], hspace=0.05, wspace=0.22
    )
    tile, street, caption = _row(run, region_id)
    _image(figure.add_subplot(grid[0, 0]), tile, "images of a region")
    _image(figure.add_subplot(grid[1, 0]), street, "")
    _caption(figure.add_subplot(grid[:, 1]), caption)
    _vector(figure.add_subplot(grid[:, 2]), np.asarray(vectors.loc[region_id, "satellite"]))
    limits = np.nanpercentile(regions["truth"], (2, 98))
    for column, (name, title) in enumerate(
        (("truth", f"{INDICATOR}, ground truth"), ("predicted", "predicted in held-out districts"))
    ):
        axes = figure.add_subplot(grid[:, 3 + column])
        shown = {"vmin": limits[0], "vmax": limits[1], "missing_kwds": {"color": "#c4c4c4"}}
        regions.to_crs(regions.estimate_utm_crs()).plot(name, ax=axes, cmap="viridis", **shown)
        axes.set_axis_off()
        axes.set_anchor("N")
        axes.set_title(title, fontsize=10, y=1.02)
    axes.text(
        1, -0.04, "grey: in no test set; synthetic city",
        transform=axes.transAxes, ha="right", va="top", fontsize=8, color="#666",
    )  # fmt: skip
    buffer = io.BytesIO()
    figure.savefig(buffer, bbox_inches="tight", pad_inches=0.08)
    Image.open(buffer).convert("RGB").save(output, quality=85, optimize=True)


def _row(run: Path, region_id: str) -> tuple[Any, Any, str]:
    rows = []
    for view in ("satellite", "street_view"):
        files = str(run / "dataset" / "data" / f"{CITY}-{view}" / "*.parquet")
        table = load_dataset("parquet", data_files=files, split="train")
        rows.append(table[table["region_id"].index(region_id)])
    return rows[0]["image"], rows[1]["image"], rows[0]["caption"]


def _image(axes: Axes, image: Any, title: str) -> None:
    axes.imshow(image)
    axes.set_axis_off()
    axes.set_title(title, fontsize=10)


def _caption(axes: Axes, caption: str) -> None:
    axes.set_axis_off()
    axes.set_title("caption, up to 248 tokens", fontsize=10)
    short = caption[:CAPTION_CHARACTERS].rsplit(" ", 1)[0] + " …"
    axes.text(0.5, 0.5, textwrap.fill(short, 34), ha="center", va="center", fontsize=9)


def _vector(axes: Axes, vector: np.ndarray) -> None:
    axes.imshow(vector.reshape(-1, 4), cmap="RdBu_r", aspect="auto")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title("embedding", fontsize=10)
    axes.set_xlabel(f"{len(vector)} dimensions", fontsize=8)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
