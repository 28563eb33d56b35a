"""Small synthetic dataset with indicators that depend on its images."""

import io
from pathlib import Path

import numpy as np
from PIL import Image
from shapely.geometry import box

from dataset_builders.schema import DatasetMetadata, Indicator
from dataset_builders.writer import DatasetWriter

CITY = "toytown"
CELL = 0.01  # degrees, about a kilometre
BAD_BYTES = {"street-bad": b"\xff\xd8 no picture", "street-empty": b""}
WORDS = ("black", "night", "dark", "dim", "dusk", "light", "bright", "white")  # of captions
INDICATORS = (
    Indicator("population", "people", "count", "Follows the brightness of the images."),
    Indicator("green_share", "share", "share", "Follows their green.", transform="identity"),
    Indicator("nothing", "people", "count", "No region has it."),
    Indicator("same", "people", "count", "Equal everywhere."),
)


def latent(side: int) -> np.ndarray:
    """Two smooth fields on a grid, `(side * side, 2)` in [0, 1]."""
    row, column = np.divmod(np.arange(side * side), side)
    bright = 0.5 + 0.4 * np.sin(row / 2.1) * np.cos(column / 1.7)
    green = 0.5 + 0.4 * np.cos(row / 1.3 + column / 2.3)
    return np.stack([bright, green], axis=1)


def picture(values: np.ndarray, seed: int, size: int = 32) -> bytes:
    bright, green = values
    rng = np.random.default_rng(seed)
    colour = np.array([60 + 120 * bright, 40 + 180 * green, 60 + 100 * bright])
    pixels = rng.normal(colour, 12, (size, size, 3)).clip(0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def build_toy(
    folder: Path,
    side: int = 8,
    street_views: int = 2,
    synthetic: bool = True,
    geometry: bool = True,
    indicators: tuple[Indicator, ...] = INDICATORS,
    captions: bool = False,
) -> Path:
    """Write a grid of regions; region 0 has no street view, two street views are damaged."""
    fields = latent(side)
    noise = np.random.default_rng(0).normal(0, 0.1, len(fields))
    labels = {
        "population": np.expm1(2 + 4 * fields[:, 0] + noise),
        "green_share": fields[:, 1],
        "nothing": np.full(len(fields), np.nan),
        "same": np.full(len(fields), 7.0),
    }
    labels["population"][3] = np.nan
    about = {"synthetic": synthetic, "indicators": indicators}
    writer = DatasetWriter(folder, DatasetMetadata("Toy", "Simulated.", "t", "CC0-1.0", **about))
    regions, streets, satellite = [], [], []
    for index, values in enumerate(fields):
        row, column = divmod(index, side)
        west, south = 10 + column * CELL, 50 + row * CELL
        shape = box(west, south, west + CELL, south + CELL) if geometry else None
        region = {"region_id": f"r{index:04d}"}
        place = {"lon": west + CELL / 2, "lat": south + CELL / 2, "geometry": shape}
        own = {one.name: float(labels[one.name][index]) for one in indicators}
        regions.append(region | place | own | {"city": CITY, "area_m2": 0.8e6})
        tile = {"image_id": f"tile-{index}", "image": _image(picture(values, 7 * index + 1))}
        caption = {"caption": f"Number {index} is {WORDS[int(8 * values[0])]}."}
        satellite.append(region | tile | (caption if captions else {}))
        for k in range(street_views if index else 0):
            image = {"image": _image(picture(values, 10 * index + k, 48))}
            streets.append(region | image | {"image_id": f"street-{index}-{k}"})
    bad = {**BAD_BYTES, "street-stray": picture(fields[0], 1)}
    for name, data in bad.items():
        region_id = "elsewhere" if name == "street-stray" else "r0001"
        streets.append({"image": _image(data), "image_id": name, "region_id": region_id})
    half = len(streets) // 2
    writer.write_shard(CITY, "regions", 0, regions)
    writer.write_shard(CITY, "street_view", 0, streets[:half])
    writer.write_shard(CITY, "street_view", 1, streets[half:])
    writer.write_shard(CITY, "satellite", 0, satellite)
    writer.finish()
    return folder


def _image(data: bytes) -> dict[str, bytes | None]:
    return {"bytes": data, "path": None}
