"""Group trainings of one system from several seeds.

The metadata of an embedding table names the system and the seed of its training. Results have one
row per training; the report aggregates them to one row per system.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from dataset_builders.errors import DatasetError
from dataset_builders.yaml_records import make_record

from ..errors import InputError

METADATA_NAME = "training"  # of an embedding table's metadata


@dataclass(frozen=True)
class Training:
    """One training of a system.

    Attributes:
        group: Name of the system in tables and plots, shared by all its trainings.
        seed: Seed of this training.
        variant_of: Group of the reference system, if this system is a variant.
        differs: Description of the difference from the reference.
        settings: Training settings, for display.
        claim: Hypothesis that the comparison tests, in words.
        expected: Direction of this system's score under the hypothesis.
        curve: Curves that this system is a point of, with its position on the x axis.
    """

    group: str
    seed: int = 0
    variant_of: str | None = None
    differs: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    claim: str = ""
    expected: Literal["lower", "higher"] = "lower"
    curve: Mapping[str, float] = field(default_factory=dict)

    def metadata(self) -> dict[str, Any]:
        """Entry for the metadata of an embedding table."""
        return {METADATA_NAME: asdict(self)}


def training_of(metadata: Mapping[str, Any]) -> Training | None:
    """Training in a table's metadata, if any."""
    values = metadata.get(METADATA_NAME)
    return None if values is None else Training(**values)


def parse_training(text: str | None, **defaults: Any) -> Training | None:
    """Parse the JSON of `--training`.

    Args:
        text: JSON object with the fields of [`Training`].
        defaults: Default values of fields.

    Raises:
        InputError: Invalid JSON, an unknown field, or no group.
    """
    if text is None:
        return None
    try:
        values = json.loads(text)
        if isinstance(values, dict):
            values = {**defaults, **values}
        return make_record(Training, values, "--training")
    except json.JSONDecodeError as error:
        raise InputError(f"--training is not valid JSON: {error}, got {text!r}.") from error
    except DatasetError as error:
        raise InputError(str(error)) from error


def check_trainings(systems: Mapping[str, Mapping[str, Any]]) -> None:
    """Check that labels, groups and seeds identify the systems of a run.

    Args:
        systems: Metadata of the embedding tables by label.

    Raises:
        InputError: Two tables are the same training, or a group has the label of another table.
    """
    known: dict[tuple[str, int], str] = {}
    for label, metadata in systems.items():
        training = training_of(metadata)
        if training is None:
            continue
        key = training.group, training.seed
        if key in known:
            raise InputError(
                f"{known[key]} and {label} are both the training of {training.group!r} from "
                f"seed {training.seed}: embed one of them with another --training."
            )
        known[key] = label
    alone = {label for label, metadata in systems.items() if training_of(metadata) is None}
    clash = sorted(alone & {group for group, _ in known})
    if clash:
        raise InputError(
            f"{clash[0]!r} is the label of one table and the group of others: rename one of them."
        )


def members(systems: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """Map each system to the labels of its trainings, ordered by seed.

    Args:
        systems: Metadata of the embedding tables by label; tables without a group are their own.
    """
    known = {label: training_of(metadata) or Training(label) for label, metadata in systems.items()}
    found: dict[str, list[str]] = {}
    for label in sorted(known, key=lambda label: (known[label].seed, label)):
        found.setdefault(known[label].group, []).append(label)
    return found


def groups(labels: Iterable[str], systems: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Map labels to their systems; labels without a table (controls) map to themselves."""
    known = {label: group for group, own in members(systems).items() for label in own}
    return {label: known.get(label, label) for label in labels}


__all__ = [
    "METADATA_NAME",
    "Training",
    "check_trainings",
    "groups",
    "members",
    "parse_training",
    "training_of",
]
