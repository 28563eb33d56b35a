"""Simulated damage to files."""

from collections.abc import Iterator
from pathlib import Path

HOW = ("flip", "truncate", "zero", "empty", "gone")


def damage(path: Path, how: str) -> None:
    """Flip a bit in the middle of a file, truncate it, fill it with zeros, empty or remove it."""
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
    """Copies with one bit changed in each byte, or in each byte of `only`; digits stay digits."""
    for at, byte in enumerate(content):
        if not only or byte in only:
            changed = byte ^ (1 if byte in b"0123456789" else 4)
            yield content[:at] + bytes([changed]) + content[at + 1 :]
