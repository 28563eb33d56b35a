"""YAML files as dataclasses, checked whole before anything starts."""

import difflib
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from .errors import DatasetError

T = TypeVar("T")


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        DatasetError: no such file, not YAML, or no mapping.
    """
    path = Path(path)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DatasetError(f"The recipe {path} cannot be read: {reason}.") from error
    except yaml.YAMLError as error:
        raise DatasetError(f"The recipe {path} is not YAML: {error}") from error
    if not isinstance(values, dict):
        raise DatasetError(f"The recipe {path} must be a mapping, got {type(values).__name__}.")
    return values


def make_record(kind: type[T], values: Any, where: str = "") -> T:
    """A dataclass from a mapping, its fields from theirs.

    Lists become tuples and whole numbers floats where the field says so. A field that is a
    dataclass takes a mapping, or a text for its first field if the others have defaults.

    Args:
        kind: the dataclass.
        values: as a YAML file has them.
        where: path of the record, for messages.

    Raises:
        DatasetError: an unknown or missing field (the nearest known one is named), or a value of
            the wrong kind.
    """
    known: dict[str, Field[Any]] = {
        one.name: one for one in fields(typing.cast(Any, kind)) if one.init
    }
    if not isinstance(values, Mapping):
        raise DatasetError(
            f"{where or 'The recipe'} must be a mapping of {', '.join(known)}; got {values!r}."
        )
    hints = typing.get_type_hints(kind)
    arguments = {}
    for name, value in values.items():
        path = f"{where}.{name}" if where else str(name)
        if name not in known:
            raise DatasetError(unknown_name(path, str(name), list(known)))
        arguments[name] = _convert(hints[name], value, path)
    missing = [name for name, one in known.items() if name not in values and _is_required(one)]
    if missing:
        raise DatasetError(
            f"{where or 'The recipe'} lacks {', '.join(missing)}: give it in the file or as a flag."
        )
    return kind(**arguments)


def unknown_name(path: str, name: str, known: list[str]) -> str:
    """What to say of a field that there is not."""
    close = difflib.get_close_matches(name, known, 1)
    hint = f" Did you mean {close[0]!r}?" if close else f" There are: {', '.join(known)}."
    return f"There is no field {path!r} in a recipe.{hint}"


def _is_required(one: "Field[Any]") -> bool:
    return one.default is MISSING and one.default_factory is MISSING


def _convert(hint: Any, value: Any, path: str) -> Any:
    """The value as its field has it."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        options = [one for one in arguments if one is not type(None)]
        return None if value is None else _convert(options[0], value, path)
    if is_dataclass(hint):
        first, *others = fields(hint)
        if isinstance(value, str) and not any(_is_required(one) for one in others):
            value = {first.name: value}
        return make_record(typing.cast(type[Any], hint), value, path)
    if origin is Literal:
        if value not in arguments:
            raise DatasetError(f"`{path}` must be one of {arguments}, got {value!r}.")
        return value
    if origin is tuple:
        return _sequence(arguments, value, path)
    if isinstance(origin or hint, type) and issubclass(origin or hint, Mapping):
        if not isinstance(value, Mapping):
            raise DatasetError(f"`{path}` must be a mapping, got {value!r}.")
        of = arguments[1] if arguments else Any
        return {name: _convert(of, one, f"{path}.{name}") for name, one in value.items()}
    if hint is float and type(value) is int:
        return float(value)
    if hint is not Any and type(value) is not hint:
        raise DatasetError(f"`{path}` must be {hint.__name__}, got {value!r}.")
    return value


def _sequence(arguments: tuple[Any, ...], value: Any, path: str) -> tuple[Any, ...]:
    items = value if isinstance(value, (list, tuple)) else [value]
    if arguments[-1] is not Ellipsis and len(items) != len(arguments):
        raise DatasetError(f"`{path}` must have {len(arguments)} values, got {value!r}.")
    return tuple(_convert(arguments[0], item, f"{path}[{i}]") for i, item in enumerate(items))


__all__ = ["make_record", "read_yaml", "unknown_name"]
