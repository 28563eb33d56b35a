"""Error messages for disk, memory, network and permissions."""

import errno
import re

from .hub_errors import causes

_NETWORK = "CONNREFUSED CONNRESET TIMEDOUT NETUNREACH HOSTUNREACH"
# native libraries pass on the system's message without its error number
ADVICE: tuple[tuple[set[int], str, str], ...] = (
    (
        {errno.ENOSPC, errno.EDQUOT, errno.EFBIG},
        r"No space left|disk is full|File too large|quota exceeded|requested and \d+ written"
        r"|PytorchStreamWriter|inline_container",
        "Free some space there or give another folder",
    ),
    (
        {errno.EROFS, errno.EACCES, errno.EPERM},
        r"Read-only file system|readonly database|Permission denied|unable to open database file",
        "Make it readable and writable or give another folder",
    ),
    (
        {errno.EMFILE, errno.ENFILE},
        r"Too many open files",
        "Raise the limit (`ulimit -n 65536`) or use fewer workers",
    ),
    (
        {errno.ENOMEM},
        r"MemoryError|out of memory|annot allocate memory|BrokenProcessPool|DataLoader worker",
        "There is not enough memory: use fewer workers or smaller batches",
    ),
    (
        set(),
        r"JSONDecodeError|thrift|CRC checksum|Unexpected end of stream|Parquet magic bytes"
        r"|[Cc]orrupt|malformed|not a database",
        "A file is damaged: recreate it with the command that wrote it",
    ),
    ({errno.EIO}, r"disk I/O error|Input/output error", "Check the disk or give another folder"),
    (
        {getattr(errno, f"E{name}") for name in _NETWORK.split()},
        r"gaierror|Connection (refused|reset)|ConnectError|ConnectionError",
        "Check the network and that the server runs",
    ),
)


def explain(error: BaseException) -> str | None:
    """Explain an error of disk, memory, network or permissions.

    Args:
        error: The caught exception.

    Returns:
        Cause and remedy on one line; None if the error has another cause.
    """
    for one in causes(error):
        text = f"{type(one).__name__}: {one}"
        for codes, words, advice in ADVICE:
            if getattr(one, "errno", None) in codes or re.search(words, text):
                return f"{_what(one)}. {advice}, then rerun the command to resume."
    return None


def _what(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.strerror}: {error.filename}"
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


__all__ = ["explain"]
