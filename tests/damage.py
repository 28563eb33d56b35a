"""What happens to files on disks that fail."""

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
