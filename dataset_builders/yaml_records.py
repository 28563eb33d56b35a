"""YAML files validated by pydantic; all errors are reported together, by path."""

import difflib
import json
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from .errors import DatasetError

T = TypeVar("T")
CONFIG = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
MAX_SHOWN = 60
MAX_DEPTH, MAX_VALUES = 50, 100_000
LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's loader, if available: the time of Python's is quadratic in the depth."""
TAGS = ("provider", "reader")
"""Discriminator fields of unions of records."""
UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")
MISSING = ("missing", "missing_argument")
WORDS = {
    "a valid array": "a list",
    "a valid tuple": "a list",
    "a valid string": "text",
    "a valid number": "a number",
    "a valid boolean": "true or false",
    "a valid integer": "a whole number",
    "an object": "a mapping",
}
"""Pydantic's terms, and those of YAML."""


class Record(BaseModel):
    """Part of a YAML file: strictly typed fields, no unknown ones."""

    model_config = CONFIG


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read the mapping in a YAML file.

    Raises:
        DatasetError: Missing file, invalid YAML, or no mapping.
    """
    path = Path(path)
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=LOADER)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DatasetError(f"The recipe {path} cannot be read: {reason}.") from error
    except RecursionError as error:
        raise DatasetError(f"The recipe {path} is nested too deeply.") from error
    except Exception as error:  # constructors of dates and numbers raise other exceptions
        raise DatasetError(f"The recipe {path} is not YAML: {error}") from error
    if not isinstance(values, dict):
        raise DatasetError(f"The recipe {path} must be a mapping, got {type(values).__name__}.")
    _check_size(values, path)
    return values


def _check_size(values: Any, path: Path) -> None:
    """Limit depth and number of values, which aliases can multiply."""
    waiting, count = [(values, 0)], 0
    while waiting:
        value, depth = waiting.pop()
        count += 1
        if depth > MAX_DEPTH or count > MAX_VALUES:
            raise DatasetError(
                f"The recipe {path} is nested too deeply, or holds more than {MAX_VALUES:,} values."
            )
        inner = value.values() if isinstance(value, dict) else value
        if isinstance(value, (dict, list)):
            waiting += [(one, depth + 1) for one in inner]


def read_layered_yaml(path: str | Path) -> dict[str, Any]:
    """Like [`read_yaml`], for the user's own file, which may extend another.

    The key `base` names the other file, relative to this one. It provides defaults, and mappings
    are merged recursively.
    """
    values = read_yaml(path)
    base = values.pop("base", None)
    return values if base is None else _merged(read_yaml(Path(path).parent / str(base)), values)


def _merged(under: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    for name, value in over.items():
        below = under.get(name)
        is_nested = isinstance(below, dict) and isinstance(value, dict)
        under[name] = _merged(dict(below or {}), value) if is_nested else value
    return under


def make_record(kind: type[T], values: Any, where: str = "") -> T:
    """Convert a mapping to a [`Record`] or dataclass.

    A list of one item may be written as the item, and a record as the text of its first field.

    Args:
        kind: Class of the record.
        values: Values of a YAML file.
        where: Path of the record in the file, for messages.

    Raises:
        DatasetError: The values are invalid. The message lists all errors: unknown fields (with the
            nearest known one), missing fields, and values of the wrong type.
    """
    try:
        content = json.loads(json.dumps({"record": values}, default=str))
    except (ValueError, TypeError, RecursionError) as error:
        raise DatasetError(f"{where or 'The recipe'} cannot be read: {error}.") from error
    holder = _holder(typing.cast(Any, kind))
    while True:
        try:
            # in JSON mode lists become tuples, and nothing else is converted
            return typing.cast(Any, holder.model_validate_json(json.dumps(content))).record
        except ValidationError as error:
            found = error.errors(include_url=False)
            if not any(_spell_out(holder, content, one) for one in found):
                said = list(_mistakes(holder, content["record"], where, found))
                if len(said) > 1:
                    said = [f"{len(said)} mistakes in {where or 'the recipe'}:", *said]
                raise DatasetError("\n  ".join(said)) from error


def unknown_name(path: str, name: str, known: Iterable[str]) -> str:
    """Error message for an unknown field."""
    return f"There is no field {path!r} in a recipe.{nearest(name, known)}"


def nearest(name: str, known: Iterable[str]) -> str:
    """Suggestion of the nearest known name; a list of all names if none is near."""
    known = list(known)
    if close := difflib.get_close_matches(name, known, 1):
        return f" Did you mean {close[0]!r}?"
    return f" There are: {', '.join(known)}."


@cache
def _holder(kind: type[Any]) -> type[BaseModel]:
    """Model that holds a record; dataclasses within it take its configuration."""
    return create_model("Holder", __config__=CONFIG, record=(kind, ...))


@cache
def _fields(holder: type[BaseModel]) -> dict[str, dict[str, Any]]:
    classes = holder.model_json_schema()["$defs"].items()
    return {name: one.get("properties", {}) for name, one in classes}


def _known_beside(holder: type[BaseModel], name: str, mapping: Mapping[str, Any]) -> list[str]:
    """Fields of the class that best matches a mapping with an unknown field."""

    def likeness(fields: Mapping[str, Any]) -> tuple[int, int]:
        consts = [one for one in fields if "const" in fields[one]]
        tags = sum(fields[one]["const"] == mapping.get(one) for one in consts)
        return tags, len(fields.keys() & (mapping.keys() - {name}))

    classes: list[dict[str, Any]] = list(_fields(holder).values())
    known = list(classes[max(range(len(classes)), key=lambda one: likeness(classes[one]))])
    everything = sorted({one for fields in _fields(holder).values() for one in fields})
    return known if difflib.get_close_matches(name, known, 1) else everything


def _spell_out(holder: type[BaseModel], content: Any, one: Mapping[str, Any]) -> bool:
    """Expand a shorthand in place; returns whether the error was one."""
    _, value, (parent, key) = _follow(content, one["loc"])
    if one["type"] == "tuple_type" and value is not None and not isinstance(value, list):
        parent[key] = [value]
    elif one["type"] in ("dataclass_type", "model_type") and isinstance(value, str):
        parent[key] = {next(iter(_fields(holder)[one["ctx"]["class_name"]])): value}
    else:
        return False
    return True


def _mistakes(
    holder: type[BaseModel], values: Any, where: str, errors: Sequence[Mapping[str, Any]]
) -> Iterator[str]:
    """One message per error; alternatives for one value are merged."""
    expected: dict[str, list[str]] = {}
    got: dict[str, str] = {}
    for one in errors:
        steps, ctx = one["loc"][1:], one.get("ctx", {})
        path, value, _ = _follow(values, steps, where)
        quoted = f"`{path}`" if path else "The recipe"
        if one["type"] in UNKNOWN:
            mapping = _follow(values, steps[:-1])[1]
            yield unknown_name(path, steps[-1], _known_beside(holder, steps[-1], mapping))
        elif one["type"] in MISSING and not isinstance(steps[-1], int):
            yield f"{quoted} lacks {steps[-1]}: give it in the file or as a flag."
        elif one["type"] == "union_tag_not_found":
            yield f"{quoted} needs a `{ctx['discriminator'].strip(chr(39))}`."
        elif one["type"] == "union_tag_invalid":
            tags = [tag.strip("'") for tag in ctx["expected_tags"].split(", ")]
            field, hint = ctx["discriminator"].strip("'"), nearest(ctx["tag"], tags)
            yield f"`{path}.{field}` must not be {ctx['tag']!r}.{hint}"
        elif one["type"] == "value_error":
            yield f"{path}: {ctx['error']}" if path else str(ctx["error"])
        else:
            expected.setdefault(quoted, []).append(_wanted(one))
            got[quoted] = _shown(value)
    for quoted, wanted in expected.items():
        yield f"{quoted} must {' or '.join(dict.fromkeys(wanted))}, got {got[quoted]}."


def _wanted(one: Mapping[str, Any]) -> str:
    """Expected value, in terms of YAML."""
    ctx = one.get("ctx", {})
    if one["type"] == "literal_error":
        return f"be one of {ctx['expected'].replace(' or ', ', ')}"
    if one["type"] in MISSING:
        return f"have {one['loc'][-1] + 1} values"
    if one["type"] == "too_long":
        return f"have {ctx['max_length']} values"
    text = str(one["msg"]).removeprefix("Input should ").removeprefix("Value should ")
    for theirs, ours in WORDS.items():
        text = text.replace(theirs, ours)
    return text


def _follow(values: Any, steps: Sequence[Any], where: str = "") -> tuple[str, Any, tuple[Any, Any]]:
    """Resolve the location of an error: path, value, and the container and key that hold it.

    Steps that only pydantic knows, such as the tags of unions, are skipped.
    """
    path, place, tagged = where, (None, None), None
    for step in steps:
        is_mapping = isinstance(values, Mapping)
        if is_mapping and values is not tagged and step in [values.get(tag) for tag in TAGS]:
            tagged = values
            continue
        if is_mapping and step in values:
            path = f"{path}.{step}" if path else str(step)
        elif isinstance(values, list) and isinstance(step, int) and step < len(values):
            path = f"{path}[{step}]"
        else:
            continue
        values, place = values[step], (values, step)
    return path, values, place


def _shown(value: Any) -> str:
    is_text = isinstance(value, str)
    text = repr(value) if is_text else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


__all__ = [
    "Record",
    "make_record",
    "nearest",
    "read_layered_yaml",
    "read_yaml",
    "unknown_name",
]
