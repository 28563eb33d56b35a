"""Street views in a local folder, georeferenced by EXIF data, a CSV file or file names."""

import hashlib
import re
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..coordinates import SYSTEMS, convert
from ..download import Fetched, Fetcher, Limit, Store
from ..errors import SourceError
from ..images import BadImageError, decode_image
from ..photos import (
    PhotoReject,
    degrees,
    exif_position,
    faulty_rows,
    file_faults,
    heading_degrees,
    iso_date,
    named_columns,
    read_csv_rows,
)
from .street_view import Place, View

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff"})
URBANVLP_NAMES = (
    r"(?P<id>[^_]+)_(?P<lon>-?\d+(?:\.\d+)?),(?P<lat>-?\d+(?:\.\d+)?)"
    r"_(?P<captured_at>\d{6})_(?P<heading>\d+(?:\.\d+)?)"
)
"""File names of UrbanVLP's street views: `id_lon,lat_YYYYMM_heading`."""


@dataclass(frozen=True)
class LocalFolder:
    """Folder of georeferenced images.

    Attributes:
        folder: Folder, searched recursively.
        coordinates: Where the coordinates are stored: "exif", "csv" or "file_name".
        coord_system: Coordinate system, never guessed; always "wgs84" for EXIF.
        csv_name: CSV file in the folder with the columns `file` (relative to the folder), `lon`,
            `lat`, and optionally `heading` and `captured_at`.
        pattern: Regular expression of file names without suffix, with the groups `lon` and `lat`,
            and optionally `heading` and `captured_at`.
        licence: Licence of the images.
        redistributable: Whether the images may be published; if not, only their IDs are.
    """

    folder: str
    coordinates: Literal["exif", "csv", "file_name"]
    provider: Literal["folder"] = "folder"
    coord_system: str = "wgs84"
    csv_name: str = "images.csv"
    pattern: str = URBANVLP_NAMES
    licence: str = "unknown"
    redistributable: bool = False
    name: str = "local"
    limits: Mapping[str, Limit] = field(default_factory=dict)
    requests_per_place: float = 0.0
    price_per_1000: float = 0.0

    def __post_init__(self) -> None:
        if self.coord_system not in SYSTEMS:
            raise SourceError(f"`coord_system` must be in {SYSTEMS}, got {self.coord_system!r}.")
        if self.coordinates == "exif" and self.coord_system != "wgs84":
            raise SourceError("EXIF coordinates are always wgs84: omit `coord_system`.")
        try:
            groups = set(re.compile(self.pattern).groupindex)
        except re.error as error:
            raise SourceError(f"`pattern` is not a regular expression: {error}.") from error
        if self.coordinates == "file_name" and not {"lon", "lat"} <= groups:
            raise SourceError(f"`pattern` needs groups `lon` and `lat`; it has {sorted(groups)}.")

    async def views(
        self, places: Sequence[Place], fetcher: Fetcher, store: Store
    ) -> AsyncIterator[View]:
        """See [`StreetViewSource`]; all images of the folder, regardless of the locations."""
        for found in self.scan(store):
            if isinstance(found, View):
                yield found

    async def pictures(
        self, rows: Sequence[Mapping[str, Any]], fetcher: Fetcher, store: Store
    ) -> AsyncIterator[tuple[str, str]]:
        """See [`StreetViewSource`]; the files of the same names in the folder."""
        wanted = {str(row["image_id"]) for row in rows}
        for found in self.scan(store):
            if isinstance(found, View) and found.image_id in wanted:
                yield found.image_id, found.key

    def paths(self) -> list[Path]:
        """Sorted image files of the folder.

        Raises:
            SourceError: The folder does not exist.
        """
        root = Path(self.folder)
        if not root.is_dir():
            raise SourceError(f"There is no folder {root}.")
        return sorted(path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES)

    def scan(self, store: Store) -> Iterator[View | PhotoReject]:
        """Rejected rows of the CSV, then each image of the folder as a view or reject."""
        root, paths = Path(self.folder), self.paths()
        table, rejects = self._table() if self.coordinates == "csv" else ({}, [])
        yield from rejects
        for path in paths:
            file = path.relative_to(root).as_posix()
            try:
                content = path.read_bytes()
                decode_image(content)
                place = self._place(path, table.get(file))
                lon, lat = convert(place["lon"], place["lat"], self.coord_system, "wgs84")
            except BadImageError as error:
                yield PhotoReject(file, error.reason, str(error))
            except (OSError, ValueError) as error:
                yield PhotoReject(file, "no_coordinates", str(error))
            else:
                key, sha256 = f"{self.name}/{file}", hashlib.sha256(content).hexdigest()
                now = time.time()
                store.put(Fetched(key, "ok", None, sha256, len(content), "", now), content)
                where = (float(lon), float(lat), heading_degrees(place.get("heading")))
                taken = place.get("captured_at")
                yield View(key, key, key, *where, taken, self.name, self.licence)

    def _place(self, path: Path, row: Mapping[str, Any] | None) -> Mapping[str, Any]:
        if self.coordinates == "exif":
            return exif_position(path)
        if self.coordinates == "csv":
            if row is None:
                raise ValueError(f"not listed in {self.csv_name}")
            return {**row, "lon": degrees(row["lon"], 180), "lat": degrees(row["lat"], 90)}
        match = re.fullmatch(self.pattern, path.stem)
        if match is None:
            raise ValueError(f"the file name does not match {self.pattern}")
        found = match.groupdict()
        return {
            "lon": degrees(found["lon"], 180),
            "lat": degrees(found["lat"], 90),
            "heading": found.get("heading"),
            "captured_at": iso_date(found.get("captured_at")),
        }

    def _table(self) -> tuple[dict[str, dict[str, Any]], list[PhotoReject]]:
        path = Path(self.folder) / self.csv_name
        if not path.is_file():
            raise SourceError(f"There is no {self.csv_name} in {self.folder}.")
        frame, rejects = read_csv_rows(path)
        frame = named_columns(frame, str(path), ("file", "lon", "lat"))
        faults = file_faults(frame["file"])
        rejects += faulty_rows(frame["file"], faults)
        kept = frame[faults.isna()].astype(object)
        rows = kept.where(kept.notna(), None).to_dict("records")
        return {row["file"]: {str(k): v for k, v in row.items()} for row in rows}, rejects


__all__ = ["URBANVLP_NAMES", "LocalFolder"]
