"""Exit codes and one-line error messages of all commands."""

import os
import select
import sys
from collections.abc import Callable

from . import hub_errors, machine_errors
from .errors import ReportedError

INTERRUPTED, OUTPUT_CLOSED = 130, 141  # 128 + signal number, as in shells


def run_command(work: Callable[[], int | None], prefix: str = "error") -> int:
    """Run a command; print user errors to standard error, without a traceback.

    Args:
        work: Function that runs the command and returns its exit code, None for 0.
        prefix: Prefix of the printed line.

    Returns:
        Exit code: 1 for errors of disk, memory or network, where a rerun may succeed; 2 for invalid
        input, unless the error sets its own; 130 after Ctrl-C; 141 if the output pipe is closed.
        Other exceptions are bugs and are raised.
    """
    try:
        code = work() or 0
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        said, code = "stopped. Rerun the command to resume.", INTERRUPTED
    except ReportedError as error:
        said, code = str(error), error.exit_code
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _is_output_closed():
            return OUTPUT_CLOSED
        if hub := hub_errors.explain(error):
            said, code = hub, 1 if hub.endswith(hub_errors.AGAIN) else 2
        elif machine := machine_errors.explain(error):
            said, code = machine, 1
        elif isinstance(error, OSError):  # such as a missing path
            said, code = str(error), 2
        else:
            raise
    print(f"{prefix}: {said}", file=sys.stderr)
    return code


def _is_output_closed() -> bool:
    output = sys.stdout.fileno()
    poll = select.poll()
    poll.register(output, 0)
    if not poll.poll(0):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), output)  # Python flushes again at exit
    return True


__all__ = ["run_command"]
