"""Write search results as CSV, GeoJSON and an HTML page with images.

Queries, captions and ids are untrusted: the page escapes them, and its Content-Security-Policy
blocks scripts and requests.
"""

import base64
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from PIL import Image

from dataset_builders.files import atomic_path, digest
from dataset_builders.images import BadImageError, decode_image, encode_image
from dataset_builders.storage import iter_images, read_regions
from pipelines.common.csv_files import write_csv
from pipelines.common.pages import page_environment

from .retrieval import Gallery, Hit

PICTURE_SIDE = 360  # pixels, at most
SLUG_LENGTH = 48


def write_search(query: str, hits: Sequence[Hit], gallery: Gallery, output: Path) -> list[Path]:
    """Write `<output>/<words of the query>-<hash>.csv`, `.geojson` and `.html`.

    Args:
        query: Query text.
        hits: Regions found, nearest first.
        gallery: Searched images.
        output: Folder of the files.

    Returns:
        Paths of the three files.
    """
    about = {**gallery.description, "view": gallery.view}
    dataset, city = str(about["dataset"]), str(about["city"])
    regions = read_regions(dataset, city)
    pictures = read_pictures(dataset, city, gallery.view, [hit.image_id for hit in hits])
    words = re.sub(r"[^a-z0-9]+", "-", query.lower()).strip("-")[:SLUG_LENGTH].rstrip("-")
    name = f"{words or 'query'}-{digest(query, gallery.view, about['encoder'])[:8]}"
    paths = [output / f"{name}.{suffix}" for suffix in ("csv", "geojson", "html")]
    table = hits_table(hits, regions)
    write_csv(paths[0], pd.DataFrame(table.drop(columns="geometry")))
    contents = to_geojson(query, table, about), to_html(query, table, pictures, about)
    for path, content in zip(paths[1:], contents, strict=True):
        with atomic_path(path) as temporary:
            temporary.write_text(content, encoding="utf-8")
    return paths


def hits_table(hits: Sequence[Hit], regions: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    """One row per hit: rank, region_id, score, lon, lat, image_id, caption, geometry (EPSG:4326).

    The geometry is the region's polygon, or its point if there is none.
    """
    known = regions.set_index("region_id").loc[[hit.region_id for hit in hits]]
    shapes = [
        shapely.Point(lon, lat) if shape is None and np.isfinite([lon, lat]).all() else shape
        for shape, lon, lat in zip(known.geometry, known["lon"], known["lat"], strict=True)
    ]
    frame = pd.DataFrame(
        {
            "rank": range(1, len(hits) + 1),
            "region_id": [hit.region_id for hit in hits],
            "score": [f"{hit.score:.6f}" for hit in hits],
            "lon": known["lon"].to_numpy(float),
            "lat": known["lat"].to_numpy(float),
            "image_id": [hit.image_id for hit in hits],
            "caption": [hit.caption or "" for hit in hits],
        }
    )
    return gpd.GeoDataFrame(frame, geometry=shapes, crs="EPSG:4326")


def read_pictures(
    dataset_name: str, city: str, view: str, image_ids: Sequence[str]
) -> dict[str, bytes]:
    """JPEG thumbnails by image id; images that cannot be decoded are skipped."""
    missing, pictures = set(image_ids), {}
    for row in iter_images(dataset_name, city, view, ["image_id"]):
        if row["image_id"] in missing:
            missing.discard(row["image_id"])
            try:
                image = decode_image(row["image"] or b"")
            except BadImageError:
                continue
            image.thumbnail((PICTURE_SIDE, PICTURE_SIDE), Image.Resampling.LANCZOS)
            pictures[row["image_id"]] = encode_image(image, quality=85)
        if not missing:
            break
    return pictures


def to_geojson(query: str, table: gpd.GeoDataFrame, about: Mapping[str, Any]) -> str:
    """GeoJSON of the regions, EPSG:4326."""
    shown = table[["rank", "region_id", "score", "image_id", "geometry"]]
    shown = shown.assign(score=shown["score"].astype(float))
    features = json.loads(shown.to_json(drop_id=True))["features"]
    collection = {
        "type": "FeatureCollection",
        "query": query,
        "synthetic": bool(about["synthetic"]),
        "features": features,
    }
    return json.dumps(collection, ensure_ascii=True, allow_nan=False, indent=1) + "\n"


def to_html(
    query: str, table: pd.DataFrame, pictures: Mapping[str, bytes], about: Mapping[str, Any]
) -> str:
    """HTML page; the template escapes all values."""
    environment = page_environment(__package__)
    assert environment.loader is not None
    style, _, _ = environment.loader.get_source(environment, "search.css")
    encoded = {name: base64.b64encode(data).decode() for name, data in pictures.items()}
    return environment.get_template("search.html.j2").render(
        title=query,
        style=style,
        hits=list(table.itertuples()),
        pictures=encoded,
        city=about["city"],
        encoder=about["encoder"],
        view=about["view"].replace("_", " "),
        synthetic=about["synthetic"],
    )


__all__ = ["hits_table", "read_pictures", "to_geojson", "to_html", "write_search"]
