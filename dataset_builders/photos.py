"""Photos in a folder: which files there are and where each was taken."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import ExifTags, Image

from .errors import SourceError
from .images import READABLE

SUFFIXES = frozenset(
    (".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
)
COLUMN_NAMES = {
    "file": ("file", "filename", "file_name", "image", "path"),
    "lon": ("lon", "lng", "longitude"),
    "lat": ("lat", "latitude"),
}
"""Accepted names of the columns of a listing, the preferred one first."""
GPS, DIRECTION = ExifTags.IFD.GPSInfo, ExifTags.GPS.GPSImgDirection


@dataclass(frozen=True)
class PhotoReject:
    """A file or a row that is no placed photo, and why."""

    file: str
    reason: str
    detail: str = ""


@dataclass(frozen=True)
class Photos:
    """Photos with their positions.

    Attributes:
        root: folder that `file` is relative to.
        frame: `file` (unique), `lon` and `lat` (EPSG:4326, degrees), sorted by `file`.
        rejects: files and rows that were left out.
    """

    root: Path
    frame: pd.DataFrame
    rejects: list[PhotoReject] = field(default_factory=list)

    def read(self, file: str) -> bytes:
        """The encoded bytes of a photo; empty where it cannot be read."""
        try:
            return (self.root / file).read_bytes()
        except OSError:
            return b""


def find_photos(source: str | Path | pd.DataFrame, csv: str | None = None) -> Photos:
    """List the photos of a folder with their positions.

    Positions come from a CSV in the folder where there is one, and from the photos' EXIF data
    otherwise.

    Args:
        source: a folder of photos, or a frame with the columns of such a CSV whose files are paths.
        csv: name of the CSV in the folder; by default the only one there. Its columns are `file`
            (relative to the folder), `lon` and `lat` (EPSG:4326, degrees); `filename`, `image` or
            `path`, and `longitude` and `latitude`, will do.

    Raises:
        SourceError: no such folder or CSV, several CSVs and none named, missing columns, or no
            photo with a position.
    """
    if isinstance(source, pd.DataFrame):
        root, listing = Path(), _named_columns(source, "The table of images")
        photos = _from_listing(root, listing, [])
    elif not isinstance(source, str | Path):
        raise SourceError(f"Images are a folder or a frame, got a {type(source).__name__}.")
    else:
        root = Path(source)
        if not root.is_dir():
            raise SourceError(f"There is no folder of images at {root}.")
        path = _csv_of(root, csv)
        files = list(_image_files(root))
        if path is None:
            photos = _from_exif_data(root, files)
        else:
            frame, bad = read_csv_rows(path)
            photos = _from_listing(root, _named_columns(frame, str(path)), bad)
            listed = set(photos.frame["file"]) | {reject.file for reject in photos.rejects}
            photos.rejects.extend(
                PhotoReject(file, "not_listed", f"{path.name} has no row for it")
                for file in files
                if file not in listed
            )
    if photos.frame.empty:
        raise SourceError(_nothing_placed(source, photos.rejects))
    return photos


def read_csv_rows(path: Path) -> tuple[pd.DataFrame, list[PhotoReject]]:
    """A CSV as text columns, and its rows with more fields than the header.

    Raises:
        SourceError: it is empty, no UTF-8 or no CSV.
    """
    bad: list[PhotoReject] = []

    def leave_out(fields: list[str]) -> None:
        bad.append(PhotoReject(fields[0], "bad_row", f"{len(fields)} fields: {fields[:6]}"))

    options: dict[str, Any] = {"dtype": str, "encoding": "utf-8-sig", "skipinitialspace": True}
    try:
        try:
            frame = pd.read_csv(path, **options)
        except pd.errors.ParserError:  # a ragged row: the slower engine can pass over it
            frame = pd.read_csv(path, engine="python", on_bad_lines=leave_out, **options)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise SourceError(f"{path} cannot be read as UTF-8 CSV: {error}") from error
    frame.columns = [str(name).strip() for name in frame.columns]
    return frame, bad


def exif_position(path: Path) -> dict[str, Any]:
    """Position, heading and time of a photo by its EXIF data.

    Returns:
        `lon` and `lat` (WGS 84, degrees), `heading` (degrees or None), `captured_at` (ISO 8601 or
        None).

    Raises:
        ValueError: the file holds no position, or an impossible one.
        OSError: it cannot be read as an image.
    """
    try:
        with Image.open(path, formats=READABLE) as image:
            exif = image.getexif()
            gps = exif.get_ifd(GPS)
            taken = exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.DateTimeOriginal)
    except (OSError, ValueError):
        raise
    except Exception as error:  # EXIF blocks are written by anything
        raise ValueError(f"its EXIF data cannot be read: {error}") from error
    tags = ExifTags.GPS
    if tags.GPSLatitude not in gps or tags.GPSLongitude not in gps:
        raise ValueError("its EXIF data hold no position")
    lat = _from_parts(gps[tags.GPSLatitude], gps.get(tags.GPSLatitudeRef, "N"), "S")
    lon = _from_parts(gps[tags.GPSLongitude], gps.get(tags.GPSLongitudeRef, "E"), "W")
    if lon == lat == 0:
        raise ValueError("its position is 0, 0: none was known")
    return {
        "lon": degrees(lon, 180),
        "lat": degrees(lat, 90),
        "heading": heading_degrees(gps.get(DIRECTION)),
        "captured_at": iso_date(taken),
    }


def degrees(value: Any, bound: float) -> float:
    """An angle within bounds.

    Raises:
        ValueError: it is none.
    """
    try:
        number = float(value)
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise ValueError(f"{value!r} is no angle") from error
    if not np.isfinite(number) or abs(number) > bound:
        raise ValueError(f"{value} is no angle within {bound} degrees")
    return number


def heading_degrees(value: Any) -> float | None:
    """A heading in [0, 360); None where it is missing or no number."""
    try:
        number = float(value)
    except (TypeError, ValueError, ZeroDivisionError):
        return None
    return number % 360 if np.isfinite(number) else None


def iso_date(text: Any) -> str | None:
    """ISO 8601 from EXIF's "2024:05:01 12:00:00" or a name's "202405"; None for anything else."""
    text = str(text or "").strip("\x00 ")
    if text.isdigit() and len(text) == 6:
        return f"{text[:4]}-{text[4:]}"
    try:
        return datetime.strptime(text, "%Y:%m:%d %H:%M:%S").isoformat()
    except ValueError:
        return None


def _from_parts(parts: Any, reference: Any, negative: str) -> float:
    """Degrees of an EXIF position: degrees, minutes and seconds, of which any may be absent."""
    values = parts if isinstance(parts, Sequence) else [parts]
    try:
        value = sum(float(part) / 60**power for power, part in enumerate(values))
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise ValueError(f"its position {parts!r} is no angle") from error
    return -value if str(reference).strip("\x00 ").upper() == negative else value


def _image_files(root: Path) -> Iterator[str]:
    for path in sorted(root.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
        if path.suffix.lower() in SUFFIXES and path.is_file() and not hidden:
            yield path.relative_to(root).as_posix()


def _csv_of(root: Path, csv: str | None) -> Path | None:
    if csv is not None:
        path = root / csv
        if not path.is_file():
            raise SourceError(f"--csv {csv}: there is no such file in {root}.")
        return path
    found = sorted(root.glob("*.csv"))
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise SourceError(f"{root} holds several CSVs ({names}): name one with --csv.")
    return found[0] if found else None


def _named_columns(frame: pd.DataFrame, where: str) -> pd.DataFrame:
    """`file`, `lon` and `lat` of a listing, whatever accepted names they have."""
    lower = {str(name).strip().lower(): name for name in reversed(list(frame.columns))}
    found = {
        name: next((lower[one] for one in names if one in lower), None)
        for name, names in COLUMN_NAMES.items()
    }
    if missing := [name for name, column in found.items() if column is None]:
        raise SourceError(
            f"{where} has no column {', '.join(missing)}; it has "
            f"{', '.join(map(str, frame.columns))}. A listing names a file and its position: "
            "`file, lon, lat` (EPSG:4326, degrees)."
        )
    if twins := [str(name) for name in found.values() if (frame.columns == name).sum() > 1]:
        raise SourceError(f"{where} has several columns {', '.join(twins)}: rename all but one.")
    return pd.DataFrame({name: frame[column].to_numpy() for name, column in found.items()})


def _from_listing(root: Path, listing: pd.DataFrame, bad: Sequence[PhotoReject]) -> Photos:
    text = [str(value).strip() if pd.notna(value) else "" for value in listing["file"]]
    frame = pd.DataFrame({"file": text})
    for name in ("lon", "lat"):
        frame[name] = pd.to_numeric(listing[name], errors="coerce").to_numpy(dtype=float)
    own = str(root) == "."  # a frame's files are paths of the caller's
    reason = pd.Series(None, index=frame.index, dtype=object)

    def mark(rows: Any, why: str) -> None:
        reason[pd.Series(rows, index=frame.index) & reason.isna()] = why

    mark(frame["file"] == "", "no_file")
    mark([not own and _leaves(file) for file in text], "outside_folder")
    mark(frame["file"].duplicated(), "listed_twice")
    placed = (frame["lon"].abs() <= 180) & (frame["lat"].abs() <= 90)
    mark(~placed, "no_position")
    mark([not os.path.isfile(root / file) for file in text], "missing")  # names may be impossible
    rejects = [
        PhotoReject(file or f"row {row + 1}", str(why))
        for row, (file, why) in enumerate(zip(text, reason, strict=True))
        if pd.notna(why)
    ]
    kept = frame.loc[reason.isna()].sort_values("file", ignore_index=True)
    return Photos(root, kept, [*bad, *rejects])


def _leaves(file: str) -> bool:
    """Whether a name leads out of its folder; links within it are the user's own."""
    path = os.path.normpath(file)
    return os.path.isabs(path) or path.split(os.sep)[0] == os.pardir


def _from_exif_data(root: Path, files: Sequence[str]) -> Photos:
    rows: list[Mapping[str, Any]] = []
    rejects = []
    for file in files:
        try:
            position = exif_position(root / file)
        except OSError as error:
            rejects.append(PhotoReject(file, "unreadable", str(error)))
        except ValueError as error:
            rejects.append(PhotoReject(file, "no_position", str(error)))
        else:
            rows.append({"file": file, "lon": position["lon"], "lat": position["lat"]})
    return Photos(root, pd.DataFrame(rows, columns=["file", "lon", "lat"]), rejects)


def _nothing_placed(source: Any, rejects: Sequence[PhotoReject]) -> str:
    where = "The table" if isinstance(source, pd.DataFrame) else str(source)
    if not rejects:
        return f"{where} holds no images ({', '.join(sorted(SUFFIXES))})."
    counts = pd.Series([reject.reason for reject in rejects]).value_counts()
    told = ", ".join(f"{count} {reason}" for reason, count in counts.items())
    return (
        f"{where} holds no image with a position: {told}. Positions come from a CSV with the "
        f"columns file, lon, lat in the folder, or from EXIF data. First: {rejects[0].file}: "
        f"{rejects[0].detail or rejects[0].reason}."
    )


__all__ = [
    "PhotoReject",
    "Photos",
    "degrees",
    "exif_position",
    "find_photos",
    "heading_degrees",
    "iso_date",
    "read_csv_rows",
]
