"""Photos with positions, from a folder, a CSV that lists them, and EXIF data."""

import gzip
import lzma
import os
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import ExifTags

from .errors import SourceError
from .files import shown_files
from .images import BadImageError, open_image

SUFFIXES = frozenset(
    (".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
)
COLUMN_NAMES = {
    "file": ("file", "filename", "file_name", "image", "path"),
    "lon": ("lon", "lng", "longitude"),
    "lat": ("lat", "latitude"),
}
"""Accepted column names of a listing, in order of preference."""
NO_CSV = (ValueError, EOFError, gzip.BadGzipFile, zlib.error, zipfile.BadZipFile, lzma.LZMAError)
"""Exceptions of pandas for a file that is not UTF-8 CSV, or not a complete archive of one."""
POSITION = ("file", "lon", "lat")
GPS, DIRECTION = ExifTags.IFD.GPSInfo, ExifTags.GPS.GPSImgDirection


@dataclass(frozen=True)
class PhotoReject:
    """A file or row of a listing that cannot be used, and the reason."""

    file: str
    reason: str
    detail: str = ""


@dataclass(frozen=True)
class Photos:
    """Photos with their positions."""

    root: Path  # folder that `file` is relative to
    frame: pd.DataFrame  # `file` (unique), `lon` and `lat` (EPSG:4326, degrees), sorted by `file`
    rejects: list[PhotoReject] = field(default_factory=list)  # rejected files and rows

    def read(self, file: str) -> bytes:
        """Encoded bytes of a photo; empty if it cannot be read."""
        try:
            return (self.root / file).read_bytes()
        except OSError:
            return b""


def find_photos(source: str | Path | pd.DataFrame, csv: str | None = None) -> Photos:
    """List the photos of a folder with their positions.

    Positions are read from a CSV in the folder if there is one, and otherwise from EXIF data.

    Args:
        source: A folder of photos, or a frame with the columns of such a CSV whose files are paths.
        csv: Name of the CSV in the folder; by default the only one there. Its columns are `file`
            (relative to the folder), `lon` and `lat` (EPSG:4326, degrees), or other names in
            [`COLUMN_NAMES`].

    Raises:
        SourceError: Missing folder or CSV, several CSVs and none named, missing columns, or no
            photo with a position.
    """
    if isinstance(source, pd.DataFrame):
        listing = named_columns(source, "The table of images", POSITION)
        photos = _from_listing(Path(), listing, [], anywhere=True)
    elif not isinstance(source, str | Path):
        raise SourceError(
            f"Images must be a folder or a data frame, got a {type(source).__name__}."
        )
    else:
        root = Path(source)
        if not root.is_dir():
            raise SourceError(f"There is no folder of images at {root}.")
        path = find_csv(root, csv)
        if path is None:
            rows, rejects = exif_positions(root)
            photos = Photos(root, pd.DataFrame(rows, columns=list(POSITION)), rejects)
        else:
            photos = _from_listing(root, *read_listing(path, POSITION))
    if photos.frame.empty:
        raise SourceError(_nothing_placed(source, photos.rejects))
    return photos


def list_images(folder: Path) -> list[Path]:
    """Image files below a folder, by suffix, sorted; hidden files are left out."""
    return [path for path in shown_files(folder).values() if path.suffix.lower() in SUFFIXES]


def find_csv(root: Path, csv: str | None) -> Path | None:
    """CSV of a folder; None if it has none and none is named.

    Raises:
        SourceError: The named file is missing, or there are several and none is named.
    """
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


def read_listing(path: Path, required: Sequence[str]) -> tuple[pd.DataFrame, list[PhotoReject]]:
    """Read a CSV that lists the images of its folder.

    Args:
        path: The CSV.
        required: Required columns, as keys of [`COLUMN_NAMES`].

    Returns:
        Columns as text, `file` without nulls; and rejects: rows with too many fields, and images of
        the folder without a row.

    Raises:
        SourceError: The file cannot be read, or lacks a required column.
    """
    frame, rejects = read_csv_rows(path)
    frame = named_columns(frame, str(path), required)
    listed = {*frame["file"], *(reject.file for reject in rejects)}
    files = (image.relative_to(path.parent).as_posix() for image in list_images(path.parent))
    rejects += [
        PhotoReject(file, "not_listed", f"{path.name} has no row for it")
        for file in files
        if file not in listed
    ]
    return frame, rejects


def read_csv_rows(path: Path) -> tuple[pd.DataFrame, list[PhotoReject]]:
    """Read a CSV as text columns; rows with more fields than the header are rejects.

    Raises:
        SourceError: The file is empty, not UTF-8 or not CSV.
    """
    bad: list[PhotoReject] = []

    def leave_out(fields: list[str]) -> None:
        bad.append(PhotoReject(fields[0], "bad_row", f"{len(fields)} fields: {fields[:6]}"))

    options: dict[str, Any] = {"dtype": str, "encoding": "utf-8-sig", "skipinitialspace": True}
    try:
        try:
            frame = pd.read_csv(path, **options)
        except pd.errors.ParserError:  # ragged rows: the slower engine can skip them
            frame = pd.read_csv(path, engine="python", on_bad_lines=leave_out, **options)
    except NO_CSV as error:
        raise SourceError(f"{path} cannot be read as UTF-8 CSV: {error}") from error
    frame.columns = [str(name).strip() for name in frame.columns]
    return frame, bad


def named_columns(frame: pd.DataFrame, where: str, required: Sequence[str]) -> pd.DataFrame:
    """Rename the columns of a listing to `file`, `lon` and `lat`.

    Raises:
        SourceError: A required column is missing, or several have the same name.
    """
    lower = {str(name).strip().lower(): name for name in reversed(list(frame.columns))}
    found = {
        name: next((lower[one] for one in names if one in lower), None)
        for name, names in COLUMN_NAMES.items()
    }
    if missing := [name for name in required if found[name] is None]:
        raise SourceError(
            f"{where} has no column {', '.join(missing)}; it has "
            f"{', '.join(map(str, frame.columns))}. A listing names a file and its position: "
            "`file, lon, lat` (EPSG:4326, degrees)."
        )
    frame = frame.rename(columns={old: name for name, old in found.items() if old is not None})
    if twins := [name for name in found if (frame.columns == name).sum() > 1]:
        raise SourceError(f"{where} has several columns {', '.join(twins)}: rename all but one.")
    files = [str(value).strip() if pd.notna(value) else "" for value in frame["file"]]
    return frame.assign(file=pd.Series(files, index=frame.index, dtype=object))


def file_faults(files: pd.Series, anywhere: bool = False) -> pd.Series:
    """Reason why the file of each row of a listing is unusable; null if it is usable.

    Args:
        files: Names relative to the folder; "" if missing.
        anywhere: Accept names outside the folder.
    """
    reason = pd.Series(None, index=files.index, dtype=object)
    outside = pd.Series([not anywhere and _leaves(file) for file in files], index=files.index)
    for why, rows in (
        ("no_file", files == ""),
        ("outside_folder", outside),
        ("listed_twice", files.duplicated()),
    ):
        reason[rows & reason.isna()] = why
    return reason


def faulty_rows(files: pd.Series, reasons: pd.Series) -> list[PhotoReject]:
    """Rejects for the rows of a listing that have a reason."""
    return [
        PhotoReject(file or f"row {row + 1}", str(why))
        for row, (file, why) in enumerate(zip(files, reasons, strict=True))
        if pd.notna(why)
    ]


def exif_positions(root: Path) -> tuple[list[dict[str, Any]], list[PhotoReject]]:
    """`file`, `lon` and `lat` of the photos below a folder from EXIF data, and rejects."""
    rows, rejects = [], []
    for path in list_images(root):
        file = path.relative_to(root).as_posix()
        try:
            position = exif_position(path)
        except OSError as error:
            rejects.append(PhotoReject(file, "unreadable", str(error)))
        except ValueError as error:
            rejects.append(PhotoReject(file, "no_position", str(error)))
        else:
            rows.append({"file": file, "lon": position["lon"], "lat": position["lat"]})
    return rows, rejects


def exif_position(path: Path) -> dict[str, Any]:
    """Position, heading and time of a photo from its EXIF data.

    Returns:
        `lon` and `lat` (WGS 84, degrees), `heading` (degrees or None), `captured_at` (ISO 8601 or
        None).

    Raises:
        ValueError: The position is missing or invalid.
        OSError: The file cannot be read as an image.
    """
    try:
        with open_image(path) as image:
            exif = image.getexif()
            gps = exif.get_ifd(GPS)
            taken = exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.DateTimeOriginal)
    except BadImageError as error:
        raise OSError(str(error)) from error
    except Exception as error:  # EXIF blocks are written by anything
        raise ValueError(f"its EXIF data cannot be read: {error}") from error
    tags = ExifTags.GPS
    if tags.GPSLatitude not in gps or tags.GPSLongitude not in gps:
        raise ValueError("its EXIF data hold no position")
    lat = _from_parts(gps[tags.GPSLatitude], gps.get(tags.GPSLatitudeRef, "N"), "S")
    lon = _from_parts(gps[tags.GPSLongitude], gps.get(tags.GPSLongitudeRef, "E"), "W")
    if lon == lat == 0:
        raise ValueError("its position is 0, 0, which means unknown")
    return {
        "lon": degrees(lon, 180),
        "lat": degrees(lat, 90),
        "heading": heading_degrees(gps.get(DIRECTION)),
        "captured_at": iso_date(taken),
    }


def degrees(value: Any, bound: float) -> float:
    """Convert an angle to float, within +-`bound` degrees.

    Raises:
        ValueError: The value is not a number, or out of bounds.
    """
    number = _number(value)
    if number is None or not np.isfinite(number) or abs(number) > bound:
        raise ValueError(f"{value} is not an angle within {bound} degrees")
    return number


def heading_degrees(value: Any) -> float | None:
    """Heading in [0, 360); None if missing or not a number."""
    number = _number(value)
    return None if number is None or not np.isfinite(number) else number % 360


def iso_date(text: Any) -> str | None:
    """ISO 8601 date of "2024:05:01 12:00:00" (EXIF) or "202405"; None for anything else."""
    text = str(text or "").strip("\x00 ")
    if text.isdigit() and len(text) == 6:
        return f"{text[:4]}-{text[4:]}"
    try:
        return datetime.strptime(text, "%Y:%m:%d %H:%M:%S").isoformat()
    except ValueError:
        return None


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError, ZeroDivisionError):  # an EXIF rational of 0/0
        return None


def _from_parts(parts: Any, reference: Any, negative: str) -> float:
    """Degrees of an EXIF position from up to three parts: degrees, minutes and seconds."""
    values = [_number(part) for part in (parts if isinstance(parts, Sequence) else [parts])]
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        raise ValueError(f"its position {parts!r} is not an angle")
    value = sum(part / 60**power for power, part in enumerate(known))
    return -value if str(reference).strip("\x00 ").upper() == negative else value


def _leaves(file: str) -> bool:
    """Whether a name leads out of its folder; symbolic links are not resolved."""
    path = os.path.normpath(file)
    return os.path.isabs(path) or path.split(os.sep)[0] == os.pardir


def _from_listing(
    root: Path, listing: pd.DataFrame, rejects: list[PhotoReject], anywhere: bool = False
) -> Photos:
    frame = listing[list(POSITION)].reset_index(drop=True)
    for name in ("lon", "lat"):
        frame[name] = pd.to_numeric(frame[name], errors="coerce").to_numpy(dtype=float)
    reason = file_faults(frame["file"], anywhere)
    placed = (frame["lon"].abs() <= 180) & (frame["lat"].abs() <= 90)
    reason[~placed & reason.isna()] = "no_position"
    exists = pd.Series([os.path.isfile(root / file) for file in frame["file"]], index=frame.index)
    reason[~exists & reason.isna()] = "missing"
    kept = frame.loc[reason.isna()].sort_values("file", ignore_index=True)
    return Photos(root, kept, [*faulty_rows(frame["file"], reason), *rejects])


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
    "NO_CSV",
    "PhotoReject",
    "Photos",
    "degrees",
    "exif_position",
    "exif_positions",
    "faulty_rows",
    "file_faults",
    "find_csv",
    "find_photos",
    "heading_degrees",
    "iso_date",
    "list_images",
    "named_columns",
    "read_csv_rows",
    "read_listing",
]
