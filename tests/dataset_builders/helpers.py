"""Small images and datasets for the tests of dataset_builders."""

import io
import signal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from dataset_builders.storage import iter_images

from ..processes import run_python


def picture(seed: int = 0, size: tuple[int, int] = (24, 16)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def encoded(image: Image.Image, format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def tables(root: Path) -> dict[str, pa.Table]:
    """All Parquet files below a folder, by relative path."""
    return {
        path.relative_to(root).as_posix(): pq.read_table(path)
        for path in sorted(root.rglob("*.parquet"))
    }


def assert_same_dataset(one: Path, other: Path) -> None:
    left, right = tables(one), tables(other)
    assert list(left) == list(right)
    for name, table in left.items():
        assert table.equals(right[name], check_metadata=True), name
    assert (one / "README.md").read_text() == (other / "README.md").read_text()
    assert sorted(p.name for p in one.rglob("*")) == sorted(p.name for p in other.rglob("*"))


def sizes(root: Path, city: str, view: str) -> set[tuple[int, int]]:
    """Widths and heights of the images of a table."""
    images = (row["image"] for row in iter_images(root, city, view))
    return {Image.open(io.BytesIO(data)).size for data in images}


def letters(text: str) -> str:
    return "".join(char for char in text if char.isalnum())


def run_until_killed(function: str, number: int, code: str) -> None:
    """Run code in a process that is killed at a call of a function."""
    killed = run_python(Path(__file__).with_name("kill.py"), function, number, code)
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
