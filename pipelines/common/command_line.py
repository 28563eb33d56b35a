"""Command-line arguments from dataclasses, without heavy imports."""

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
    """Field of a dataclass of arguments.

    Args:
        default: Default value; a list is copied.
        help: Help text.
        least: Minimum.
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
    """Parse a command line into dataclasses.

    A field `name` becomes the flag `--name`, with hyphens or underscores. Fields may be of type
    str, int, float, bool, `Literal` or list, or optional. The last value of a repeated flag counts.

    Args:
        argv: Command line without the program name.
        parts: Dataclasses by the title of their argument group. All fields have defaults, and
            their names differ.
        program: Command shown in messages, such as "python train.py".
        description: Text above the arguments in the help, printed verbatim.
        epilog: Text below the arguments in the help.
        usage: Usage line of the help.

    Returns:
        One instance per dataclass.

    Raises:
        InputError: If a flag is unknown, or a value has the wrong type or is out of range.
        SystemExit: After `--help`.
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
    """Suggest the most similar known name; empty if none is similar."""
    wanted = name.lstrip("-").replace("-", "_")
    close = difflib.get_close_matches(wanted, known, n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(
            f"{message[0].upper()}{message[1:]}. `{self.prog} --help` lists all arguments."
        )


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Show non-trivial defaults and one spelling per flag."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, "", False, []) or "efault" in (action.help or ""):
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
