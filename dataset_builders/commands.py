"""How every command ends: its exit code, and errors on one line."""

import os
import select
import sys
from collections.abc import Callable

from . import hub_errors, machine_errors
from .errors import ReportedError

INTERRUPTED, OUTPUT_CLOSED = 130, 141  # as shells say SIGINT and SIGPIPE


def run_command(work: Callable[[], int | None], prefix: str = "error") -> int:
    """Run a command; what a user can act on is printed on standard error, without a traceback.

    Args:
        work: The command; returns its exit code, None for 0.
        prefix: Of the printed line.

    Returns:
        The exit code: 1 where disk, memory or network failed, so that a rerun may succeed; 2 where
        something that was given cannot be used, or as the error says; 130 after Ctrl-C; 141 where
        nobody reads the output any more. Other errors are raised: they are faults of the program.
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
        elif isinstance(error, OSError):  # a path that is not there, or no folder
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
    os.dup2(os.open(os.devnull, os.O_WRONLY), output)  # Python tries once more when it exits
    return True


__all__ = ["run_command"]
