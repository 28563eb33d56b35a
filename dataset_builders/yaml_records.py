"""YAML files as records: checked by pydantic, every mistake reported at once, in YAML's words."""

import difflib
import json
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from .errors import DatasetError

T = TypeVar("T")
CONFIG = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
MAX_SHOWN = 60
TAGS = ("provider", "reader")
"""Fields that choose among kinds of records."""
KINDS = {
    "bool_type": "true or false",
    "dataclass_type": "a mapping",
    "dict_type": "a mapping",
    "float_type": "a number",
    "int_from_float": "a whole number",
    "int_type": "a whole number",
    "mapping_type": "a mapping",
    "model_type": "a mapping",
    "string_type": "text",
    "tuple_type": "a list",
}
"""What pydantic's types of errors miss, as a reader of YAML knows it."""
UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")


class Record(BaseModel):
    """Part of a YAML file: typed fields, no others, values of exactly their type."""

    model_config = CONFIG


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
    except RecursionError as error:
        raise DatasetError(f"The recipe {path} is nested too deeply.") from error
    if not isinstance(values, dict):
        raise DatasetError(f"The recipe {path} must be a mapping, got {type(values).__name__}.")
    return values


def read_layered_yaml(path: str | Path) -> dict[str, Any]:
    """Like [`read_yaml`], for a file of one's own that may build on another.

    A key `base` names the other file, beside it: its values hold where this one gives none, and
    mappings are merged key by key.
    """
    values = read_yaml(path)
    base = values.pop("base", None)
    return values if base is None else _merged(read_yaml(Path(path).parent / str(base)), values)


def _merged(under: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    for name, value in over.items():
        below = under.get(name)
        both = isinstance(value, dict) and isinstance(below, dict)
        under[name] = _merged(below, value) if both else value
    return under


def make_record(kind: type[T], values: Any, where: str = "") -> T:
    """A [`Record`] or dataclass from a mapping, its fields from theirs.

    A list of one item may be written as the item, and a record as the text of its first field.

    Args:
        kind: The record's class.
        values: As a YAML file has them.
        where: Path of the record in the file, for messages.

    Raises:
        DatasetError: The values do not fit. The message lists every mistake: unknown fields (with
            the nearest known one), missing ones, and values of the wrong kind.
    """
    try:
        text = json.dumps({"record": values}, default=str)
    except (ValueError, TypeError, RecursionError) as error:
        raise DatasetError(f"{where or 'The recipe'} cannot be read: {error}.") from error
    holder, content = _holder(typing.cast(Any, kind)), json.loads(text)
    try:
        found: Any = _validated(holder, content)
    except ValidationError as error:
        said = list(dict.fromkeys(_mistakes(kind, content["record"], where, error)))
        if len(said) > 1:
            said = [f"{len(said)} mistakes in {where or 'the recipe'}:", *said]
        raise DatasetError("\n  ".join(said)) from error
    return typing.cast(T, found.record)


def unknown_name(path: str, name: str, known: Iterable[str]) -> str:
    """What to say of a field that does not exist."""
    return f"There is no field {path!r} in a recipe.{nearest(name, known)}"


def nearest(name: str, known: Iterable[str]) -> str:
    """The nearest known name, as a question; all of them if none is near."""
    known = list(known)
    if close := difflib.get_close_matches(name, known, 1):
        return f" Did you mean {close[0]!r}?"
    return f" There are: {', '.join(known)}."


def _validated(holder: type[BaseModel], content: Any) -> BaseModel:
    """The record; its shorthands are written in full in `content`."""
    while True:
        try:
            # as JSON, where lists are tuples and nothing else is converted
            return holder.model_validate_json(json.dumps(content))
        except ValidationError as error:
            if not any(_spell_out(holder, content, one) for one in error.errors()):
                raise


def _spell_out(holder: type[BaseModel], content: Any, one: Mapping[str, Any]) -> bool:
    """Whether an error was about a shorthand, which is now written in full."""
    _, value, (parent, key) = _follow(content, one["loc"])
    if one["type"] == "tuple_type" and value is not None and not isinstance(value, list):
        parent[key] = [value]
    elif one["type"] in ("dataclass_type", "model_type") and isinstance(value, str):
        (record,) = _records_at(holder, one["loc"])
        parent[key] = {next(iter(_hints(record))): value}
    else:
        return False
    return True


@cache
def _holder(kind: type[Any]) -> type[BaseModel]:
    """A model that holds a record: dataclasses inside it take its configuration."""
    return create_model("Holder", __config__=CONFIG, record=(kind, ...))


def _mistakes(kind: type[Any], values: Any, where: str, error: ValidationError) -> Iterator[str]:
    """Each mistake as a sentence; alternatives for one value are one mistake."""
    expected: dict[str, list[str]] = {}
    got: dict[str, Any] = {}
    for one in error.errors():
        steps, ctx = one["loc"][1:], one.get("ctx", {})
        path, value, _ = _follow(values, steps, where)
        name, quoted = str(steps[-1]) if steps else "", f"`{path}`" if path else "The recipe"
        if one["type"] in UNKNOWN:
            known = {field: None for one in _records_at(kind, steps[:-1]) for field in _hints(one)}
            yield unknown_name(path, name, known)
        elif one["type"] == "missing" and isinstance(steps[-1], int):
            expected[quoted], got[quoted] = [f"have {steps[-1] + 1} values"], value
        elif one["type"] in ("missing", "missing_argument"):
            yield f"{quoted} lacks {name}: give it in the file or as a flag."
        elif one["type"] in ("union_tag_not_found", "union_tag_invalid"):
            field = ctx["discriminator"].strip("'")
            tags = _tags(_records_at(kind, steps), field)
            if "tag" not in ctx:
                yield f"{quoted} needs a `{field}`: {', '.join(tags)}."
                continue
            hint = nearest(ctx["tag"], tags)
            yield f"`{path}.{field}` must not be {_shown(ctx['tag'])}.{hint}"
        elif one["type"] == "value_error":
            yield f"{path}: {ctx['error']}" if path else str(ctx["error"])
        else:
            expected.setdefault(quoted, []).append(_wanted(one, ctx))
            got[quoted] = value
    for quoted, wanted in expected.items():
        shown = _shown(got[quoted])
        yield f"{quoted} must {' or '.join(dict.fromkeys(wanted))}, got {shown}."


def _wanted(one: Mapping[str, Any], ctx: Mapping[str, Any]) -> str:
    if one["type"] in KINDS:
        return f"be {KINDS[one['type']]}"
    if one["type"] == "literal_error":
        return f"be one of {ctx['expected'].replace(' or ', ', ')}"
    if one["type"] == "too_long":
        return f"have {ctx['max_length']} values"
    return str(one["msg"]).removeprefix("Input should ").removeprefix("Value should ")


def _follow(values: Any, steps: Sequence[Any], where: str = "") -> tuple[str, Any, tuple[Any, Any]]:
    """A place in the file: its path, the value, and the list or mapping and key that hold it.

    Steps that only pydantic knows, such as the tags of unions, are passed over.
    """
    path, place, tagged = where, (None, None), None
    for step in steps:
        is_mapping = isinstance(values, Mapping)
        if is_mapping and values is not tagged and step in [values.get(tag) for tag in TAGS]:
            tagged = values
            continue
        if is_mapping and step in values:
            path = f"{path}.{step}" if path else str(step)
        elif isinstance(values, list | tuple) and isinstance(step, int) and step < len(values):
            path = f"{path}[{step}]"
        else:
            continue
        values, place = values[step], (values, step)
    return path, values, place


def _records_at(kind: Any, steps: Sequence[Any]) -> list[Any]:
    """The classes of records that may stand at a place; a tag chooses among them."""
    found = [kind]
    for step in steps:
        tagged = [one for one in found if step in _tags_of(one)]
        inner = [_hints(one)[step] for one in found if step in _hints(one)]
        if tagged and len(found) > 1:
            found = tagged
        elif inner:
            found = [record for hint in inner for record in _records_in(hint)]
    return found


def _records_in(hint: Any) -> Iterator[Any]:
    if isinstance(hint, type) and (is_dataclass(hint) or issubclass(hint, BaseModel)):
        yield hint
    for inner in typing.get_args(hint):
        yield from _records_in(inner)


@cache
def _hints(record: Any) -> dict[str, Any]:
    """The fields of a record, in their order, with their types."""
    hints = typing.get_type_hints(record, include_extras=True)
    is_model = issubclass(record, BaseModel)
    names = list(record.model_fields) if is_model else [one.name for one in fields(record)]
    return {name: hints[name] for name in names}


def _tags(records: Iterable[Any], field: str) -> list[str]:
    return [tag for one in records for tag in typing.get_args(_hints(one).get(field))]


def _tags_of(record: Any) -> list[Any]:
    return [tag for field in TAGS for tag in _tags([record], field)]


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
