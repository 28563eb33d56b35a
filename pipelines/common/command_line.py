"""Command-line arguments as dataclasses; imports nothing heavy, so that `--help` is quick."""

import argparse
import copy
import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

from .errors import InputError

TRUE, FALSE = {"true", "t", "yes", "y", "1"}, {"false", "f", "no", "n", "0"}


def argument(default: Any, help: str, least: float | None = None) -> Any:
    """A field of a dataclass of arguments.

    Args:
        default: Default value; a list is copied.
        help: Text of `--help`.
        least: Smallest value allowed.
    """
    metadata = {"help": help, "least": least}
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def parse_dataclasses(
    argv: Sequence[str],
    parts: Mapping[str, type],
    *,
    program: str,
    description: str,
    epilog: str = "",
    usage: str | None = None,
) -> list[Any]:
    """Read a command line into dataclasses.

    A field is the flag `--name`; the parser also takes hyphens for underscores. Fields are of type
    str, int, float, bool, `Literal` or list, each also optional. A flag given twice counts once,
    with its later value.

    Args:
        argv: Command line without the program's name.
        parts: Dataclasses whose fields all have defaults, by the heading of their group in the
            help. Field names differ between them.
        program: How the program is started, such as "python train.py".
        description: Text above the arguments in the help, printed as it is.
        epilog: Text below them.
        usage: First line of the help.

    Returns:
        An instance of each part.

    Raises:
        InputError: An unknown flag (with the nearest known one), or a value of the wrong type or
            out of range.
        SystemExit: `--help` was asked for.
    """
    parser = _Parser(
        prog=program,
        usage=usage,
        description=description,
        epilog=epilog,
        formatter_class=_HelpFormatter,
        allow_abbrev=False,
    )
    for title, part in parts.items():
        _add_fields(parser.add_argument_group(title), part)
    parsed, unknown = parser.parse_known_args(argv)
    if unknown:
        names = [one.name for part in parts.values() for one in dataclasses.fields(part)]
        hint = did_you_mean(unknown[0], names) or f" `{program} --help` lists all."
        raise InputError(f"Unknown argument {unknown[0]!r}.{hint}")
    return [_instance(part, vars(parsed)) for part in parts.values()]


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """A hint at the nearest known name; empty where none is near."""
    wanted = name.lstrip("-").replace("-", "_")
    close = difflib.get_close_matches(wanted, known, n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(
            f"{message[0].upper()}{message[1:]}. `{self.prog} --help` lists all arguments."
        )


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Defaults where they say something, and one spelling per flag."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, "", False) or "efault" in (action.help or ""):
            return action.help
        return super()._get_help_string(action)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        shown = copy.copy(action)
        shown.option_strings = action.option_strings[:1]
        return super()._format_action_invocation(shown)


def _add_fields(group: Any, part: type) -> None:
    hints, defaults = get_type_hints(part), part()
    for one in dataclasses.fields(part):
        spellings = dict.fromkeys([f"--{one.name}", f"--{one.name.replace('_', '-')}"])
        group.add_argument(
            *spellings,
            default=getattr(defaults, one.name),
            help=one.metadata["help"],
            **_conversion(hints[one.name]),
        )
        if one.default is True:
            group.add_argument(
                f"--no_{one.name}", dest=one.name, action="store_false", default=argparse.SUPPRESS
            )


def _conversion(annotation: Any) -> dict[str, Any]:
    """How argparse reads values of a type; optional values are read like the others."""
    if get_origin(annotation) in (Union, UnionType):
        annotation = next(one for one in get_args(annotation) if one is not NoneType)
    if annotation is bool:
        return {"type": _read_boolean, "nargs": "?", "const": True, "metavar": "BOOL"}
    if get_origin(annotation) is Literal:
        return {"choices": get_args(annotation)}
    if get_origin(annotation) is list:
        return {"type": get_args(annotation)[0], "nargs": "+"}
    return {"type": annotation}


def _read_boolean(text: str) -> bool:
    if text.lower() not in TRUE | FALSE:
        raise argparse.ArgumentTypeError(f"expected true or false, got {text!r}")
    return text.lower() in TRUE


def _instance(part: type, values: Mapping[str, Any]) -> Any:
    for one in dataclasses.fields(part):
        least, value = one.metadata.get("least"), values[one.name]
        if least is not None and value is not None and value < least:
            raise InputError(f"--{one.name} must be at least {least}, got {value}.")
    return part(**{one.name: values[one.name] for one in dataclasses.fields(part)})


__all__ = ["argument", "did_you_mean", "parse_dataclasses"]
