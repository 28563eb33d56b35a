"""Prompt sets for zero-shot classification of regions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataset_builders.errors import DatasetError
from dataset_builders.schema import VIEWS
from dataset_builders.yaml_records import read_yaml

from ..errors import InputError

DEFAULT_PROMPTS = Path(__file__).resolve().parents[3] / "configs" / "zero_shot" / "prompts.yaml"


@dataclass(frozen=True)
class Attribute:
    """Attribute with two or more classes.

    Attributes:
        name: Name of the attribute.
        classes: Phrases that describe each class.
        indicators: For each indicator, the class whose score should increase with it.
    """

    name: str
    classes: Mapping[str, Sequence[str]]
    indicators: Mapping[str, str]

    @property
    def columns(self) -> list[str]:
        """Names of the scores, `<attribute>.<class>`."""
        return [f"{self.name}.{name}" for name in self.classes]


@dataclass(frozen=True)
class Prompts:
    """Attributes, and prompt templates by view."""

    templates: Mapping[str, Sequence[str]]
    attributes: Sequence[Attribute]

    def sentences(self, view: str, phrases: Sequence[str]) -> list[str]:
        """Fill each template of a view with each phrase."""
        return [form.format(phrase) for form in self.templates[view] for phrase in phrases]


def read_prompts(path: Path = DEFAULT_PROMPTS) -> Prompts:
    """Read a file like `configs/zero_shot/prompts.yaml`.

    Raises:
        InputError: The file does not exist or has the wrong structure.
    """
    try:
        content = read_yaml(path)
    except DatasetError as error:
        raise InputError(f"No prompts in {path} (--prompts): {error}") from error
    if set(content) != {"templates", "attributes"}:
        raise _wrong(path, "it must have the keys `templates` and `attributes` only")
    templates, attributes = content["templates"], content["attributes"]
    if not isinstance(templates, dict) or set(templates) != set(VIEWS):
        raise _wrong(path, f"`templates` needs {' and '.join(VIEWS)}")
    for view, forms in templates.items():
        if not _texts(forms) or any(form.count("{}") != 1 for form in forms):
            raise _wrong(path, f"`templates.{view}` needs texts with one {{}}, got {forms!r}")
    if not isinstance(attributes, dict) or not attributes:
        raise _wrong(path, "`attributes` is empty")
    return Prompts(templates, [_attribute(path, *item) for item in attributes.items()])


def _attribute(path: Path, name: str, content: Any) -> Attribute:
    if not isinstance(content, dict) or not set(content) <= {"classes", "indicators"}:
        raise _wrong(path, f"`{name}` needs `classes`, and may have `indicators`")
    classes, indicators = content.get("classes"), content.get("indicators") or {}
    if not isinstance(classes, dict) or len(classes) < 2 or not all(map(_texts, classes.values())):
        raise _wrong(path, f"`{name}.classes` needs two or more lists of phrases, got {classes!r}")
    unknown = sorted(set(map(str, indicators.values())) - set(classes))
    if unknown:
        raise _wrong(path, f"`{name}.indicators` names {unknown}, not in {list(classes)}")
    return Attribute(name, classes, indicators)


def _texts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, str) for one in value)


def _wrong(path: Path, what: str) -> InputError:
    return InputError(f"Invalid prompts in {path}: {what}. See configs/zero_shot/prompts.yaml.")


__all__ = ["DEFAULT_PROMPTS", "Attribute", "Prompts", "read_prompts"]
