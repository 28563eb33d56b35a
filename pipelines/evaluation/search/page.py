"""What a search found, as files: CSV, GeoJSON, and a page with the pictures.

Queries, captions and ids come from outside: they enter the page as escaped text alone, and its
Content-Security-Policy lets nothing run and nothing be fetched.
"""

import base64
import csv
import html
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import shapely
from PIL import Image

from dataset_builders.files import atomic_path, digest
from dataset_builders.images import BadImageError, decode_image, encode_image
from dataset_builders.storage import iter_images, read_regions
from pipelines.common.csv_files import defused
from pipelines.common.pages import html_page, printable

from .gallery import Gallery
from .retrieval import Hit

PICTURE_SIDE = 360  # pixels, at most
SLUG_LENGTH = 48
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 64rem; padding: 0 1rem; }
ol { list-style: none; padding: 0; display: grid; gap: 1.5rem;
     grid-template-columns: repeat(auto-fill, minmax(18rem, 1fr)); }
img { max-width: 100%; display: block; }
p { margin: .3rem 0; overflow-wrap: anywhere; } .soft { color: #666; }
.banner { background: #fdf1d7; color: #7a5200; padding: .5rem; }
"""


@dataclass(frozen=True)
class Place:
    """Where a region lies, EPSG:4326.

    Attributes:
        lon: degrees; None where it is not known.
        lat: degrees.
        geometry: outline, or None.
    """

    lon: float | None
    lat: float | None
    geometry: Any


def write_search(query: str, hits: Sequence[Hit], gallery: Gallery, output: Path) -> list[Path]:
    """Write `<output>/<words of the query>-<hash>.csv`, `.geojson` and `.html`.

    Args:
        query: what was looked for.
        hits: nearest first.
        gallery: what was searched.
        output: folder.

    Returns:
        The three paths.
    """
    about = gallery.description
    places = read_places(str(about["dataset"]), str(about["city"]), [hit.region_id for hit in hits])
    wanted = [hit.image_id for hit in hits]
    pictures = read_pictures(str(about["dataset"]), str(about["city"]), gallery.view, wanted)
    words = re.sub(r"[^a-z0-9]+", "-", query.lower()).strip("-")[:SLUG_LENGTH].rstrip("-")
    name = f"{words or 'query'}-{digest(query, gallery.view, about['encoder'])[:8]}"
    contents = {
        "csv": to_csv(hits, places),
        "geojson": to_geojson(query, hits, places, about),
        "html": to_html(query, hits, places, pictures, {**about, "view": gallery.view}),
    }
    paths = [output / f"{name}.{suffix}" for suffix in contents]
    for path, content in zip(paths, contents.values(), strict=True):
        with atomic_path(path) as temporary:
            temporary.write_text(content, encoding="utf-8")
    return paths


def read_places(dataset_name: str, city: str, region_ids: Sequence[str]) -> dict[str, Place]:
    """Where these regions lie."""
    regions = read_regions(dataset_name, city).set_index("region_id").loc[list(region_ids)]
    return {
        str(row.Index): Place(_known(row.lon), _known(row.lat), row.geometry)
        for row in regions.itertuples()
    }


def _known(number: Any) -> float | None:
    return None if number is None or number != number else float(number)


def read_pictures(
    dataset_name: str, city: str, view: str, image_ids: Sequence[str]
) -> dict[str, bytes]:
    """Small JPEGs of these images; those that cannot be decoded are not there."""
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


def to_csv(hits: Sequence[Hit], places: Mapping[str, Place]) -> str:
    """One line a region, in the order of the search."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["rank", "region_id", "score", "lon", "lat", "image_id", "caption"])
    for rank, hit in enumerate(hits, start=1):
        place = places[hit.region_id]
        names = [defused(hit.region_id), f"{hit.score:.6f}", place.lon, place.lat]
        writer.writerow([rank, *names, defused(hit.image_id), defused(hit.caption or "")])
    return text.getvalue()


def to_geojson(
    query: str, hits: Sequence[Hit], places: Mapping[str, Place], about: Mapping[str, Any]
) -> str:
    """The outlines (or points) of the regions, EPSG:4326."""
    features = []
    for rank, hit in enumerate(hits, start=1):
        place = places[hit.region_id]
        geometry = place.geometry
        if geometry is None and place.lon is not None and place.lat is not None:
            geometry = shapely.Point(place.lon, place.lat)
        features.append(
            {
                "type": "Feature",
                "geometry": None if geometry is None else shapely.geometry.mapping(geometry),
                "properties": {
                    "rank": rank,
                    "region_id": hit.region_id,
                    "score": round(hit.score, 6),
                    "image_id": hit.image_id,
                },
            }
        )
    whole = {
        "type": "FeatureCollection",
        "query": query,
        "synthetic": bool(about["synthetic"]),
        "features": features,
    }
    return json.dumps(whole, ensure_ascii=True, allow_nan=False, indent=1) + "\n"


def to_html(
    query: str,
    hits: Sequence[Hit],
    places: Mapping[str, Place],
    pictures: Mapping[str, bytes],
    about: Mapping[str, Any],
) -> str:
    """The page; all that comes from outside is escaped."""
    synthetic = '<p class="banner">Synthetic: this city is simulated.</p>\n'
    items = "\n".join(
        _item(rank, hit, places[hit.region_id], pictures.get(hit.image_id))
        for rank, hit in enumerate(hits, start=1)
    )
    body = f"""<h1>{_text(query)}</h1>
{synthetic if about["synthetic"] else ""}<p class="soft">{len(hits)} regions of
{_text(about["city"])}, nearest first, by {_text(about["encoder"])}. A region is as near as the
nearest of its {_text(about["view"].replace("_", " "))} images; scores are cosines, and mean nothing
beyond their order. There is always a nearest region: that it is here does not say that it fits.</p>
<ol>
{items}
</ol>"""
    return html_page(query, STYLE, body)


def _item(rank: int, hit: Hit, place: Place, picture: bytes | None) -> str:
    where = "" if place.lon is None else f", {place.lon:.5f}, {place.lat:.5f}"
    shown = '<p class="soft">No picture: it cannot be decoded.</p>'
    if picture is not None:
        data = base64.b64encode(picture).decode()
        shown = f'<img alt="{_text(hit.image_id)}" src="data:image/jpeg;base64,{data}">'
    caption = f"\n<p>{_text(hit.caption)}</p>" if hit.caption else ""
    return (
        f"<li>{shown}\n<p><b>{rank}. {_text(hit.region_id)}</b> "
        f'<span class="soft">{hit.score:.4f}{where}</span></p>{caption}</li>'
    )


def _text(value: Any) -> str:
    return html.escape(printable(str(value)))


__all__ = [
    "Place",
    "read_pictures",
    "read_places",
    "to_csv",
    "to_geojson",
    "to_html",
    "write_search",
]
