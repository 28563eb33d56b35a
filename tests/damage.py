"""What happens to files on disks that fail."""

from collections.abc import Iterator
from pathlib import Path

HOW = ("flip", "truncate", "zero", "empty", "gone")


def damage(path: Path, how: str) -> None:
    """Flip a bit in the middle, cut a file in half, fill it with zeros, empty or remove it."""
    content = bytearray(path.read_bytes())
    half = len(content) // 2
    if how == "gone":
        path.unlink()
        return
    content[half] ^= 4
    changed = {
        "flip": content,
        "truncate": content[:half],
        "zero": bytes(len(content)),
        "empty": b"",
    }
    path.write_bytes(changed[how])


def altered(content: bytes, only: bytes = b"") -> Iterator[bytes]:
    """A content with one bit changed, for each of its bytes, or each of these: digits stay such."""
    for at, byte in enumerate(content):
        if not only or byte in only:
            changed = byte ^ (1 if byte in b"0123456789" else 4)
            yield content[:at] + bytes([changed]) + content[at + 1 :]
