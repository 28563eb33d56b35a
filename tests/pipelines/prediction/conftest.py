"""A town of coloured squares, in which the colour of photos determines the label."""

from dataclasses import dataclass
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
from PIL import Image

SIDE = 13
CRS = "EPSG:32618"
ORIGIN = (580_000.0, 4_500_000.0)


@dataclass(frozen=True)
class Town:
    """Photos and tracts on disk; `values` are the true heights by region."""

    photos: Path
    tracts: Path
    frame: gpd.GeoDataFrame
    values: np.ndarray


def make_town(folder: Path, side: int = SIDE, seed: int = 0) -> Town:
    rng = np.random.default_rng(seed)
    column, row = (axis.ravel() for axis in np.meshgrid(np.arange(side), np.arange(side)))
    values = rng.uniform(5, 60, side * side)
    x, y = ORIGIN[0] + 500 * column, ORIGIN[1] + 500 * row
    frame = gpd.GeoDataFrame(
        {"tract": [f"t{k:04d}" for k in range(len(values))], "height": values},
        geometry=shapely.box(x, y, x + 500, y + 500),
        crs=CRS,
    )
    photos = folder / "photos"
    photos.mkdir(parents=True)
    centres = frame.geometry.centroid.to_crs("EPSG:4326")
    listing = []
    for k, value in enumerate(values):
        level = int(np.clip(value * 4 + rng.normal(0, 6), 0, 255))
        noise = rng.integers(0, 12, (40, 40, 3))
        pixels = (np.array([level, 255 - level, 90]) * 0.9 + noise).clip(0, 255)
        Image.fromarray(pixels.astype(np.uint8)).save(photos / f"{k:04d}.png")
        listing.append((f"{k:04d}.png", centres.iloc[k].x, centres.iloc[k].y))
    pd.DataFrame(listing, columns=["file", "lon", "lat"]).to_csv(photos / "photos.csv", index=False)
    hidden = frame.copy()
    hidden.loc[::4, "height"] = np.nan
    hidden.to_file(folder / "tracts.gpkg")
    return Town(photos, folder / "tracts.gpkg", hidden, values)


@pytest.fixture(scope="session")
def town(tmp_path_factory) -> Town:
    return make_town(tmp_path_factory.mktemp("town"))
