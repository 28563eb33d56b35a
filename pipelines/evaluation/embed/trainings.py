"""Which training of which system made a table: trainings from several seeds are one system.

What a system scores depends on the chance of its training as it does on the split. A table says in
its metadata of which system it is one training, and from which seed; results stay one row a
training, and the report shows one row a system.
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
        group: name of the system in tables and plots; all of its trainings share it.
        seed: of this one.
        variant_of: the group that this system is a variant of, and is compared with.
        differs: from that one, in words.
        settings: what it was trained with, for readers.
        claim: what the comparison is to show, in words.
        expected: where this system scores if the claim holds.
        curve: name of a curve that this system is a point of -> its place on the x axis.
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
        """The entry of a table's metadata."""
        return {METADATA_NAME: asdict(self)}


def training_of(metadata: Mapping[str, Any]) -> Training | None:
    """What a table's metadata says; None where the system is all that its label says."""
    values = metadata.get(METADATA_NAME)
    return None if values is None else Training(**values)


def parse_training(text: str | None, **defaults: Any) -> Training | None:
    """A training from a flag's JSON.

    Args:
        text: a mapping of the fields of [`Training`].
        defaults: of fields that it leaves out.

    Raises:
        InputError: it is no JSON, has an unknown field, or lacks the group.
    """
    if text is None:
        return None
    try:
        values = json.loads(text)
        if isinstance(values, dict):
            values = {**defaults, **values}
        return make_record(Training, values, "--training")
    except json.JSONDecodeError as error:
        raise InputError(f"--training is no JSON: {error}, got {text!r}.") from error
    except DatasetError as error:
        raise InputError(str(error)) from error


def check_trainings(systems: Mapping[str, Mapping[str, Any]]) -> None:
    """See that the systems of a run can be told apart.

    Args:
        systems: label -> metadata of its table.

    Raises:
        InputError: two tables are the same training of a system, or a system has the label of
            another's table.
    """
    known: dict[tuple[str, int], str] = {}
    for label, metadata in systems.items():
        training = training_of(metadata)
        if training is None:
            continue
        key = training.group, training.seed
        if key in known:
            raise InputError(
                f"{known[key]} and {label} both say to be the training of {training.group!r} from "
                f"seed {training.seed}: embed one of them with another --training."
            )
        known[key] = label
    alone = {label for label, metadata in systems.items() if training_of(metadata) is None}
    clash = sorted(alone & {group for group, _ in known})
    if clash:
        raise InputError(
            f"{clash[0]!r} is the label of one table and the group of others: choose another."
        )


def members(systems: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """System -> labels of its trainings in the order of seeds; a table without a group is its own.

    Args:
        systems: label -> metadata of its table.
    """
    found: dict[str, list[str]] = {}
    for label in sorted(systems, key=lambda label: (_seed(systems[label]), label)):
        training = training_of(systems[label])
        found.setdefault(training.group if training else label, []).append(label)
    return found


def groups(labels: Iterable[str], systems: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Label -> system, of labels that may be controls too, which are their own."""
    known = {label: group for group, own in members(systems).items() for label in own}
    return {label: known.get(label, label) for label in labels}


def _seed(metadata: Mapping[str, Any]) -> int:
    training = training_of(metadata)
    return training.seed if training else 0


__all__ = [
    "METADATA_NAME",
    "Training",
    "check_trainings",
    "groups",
    "members",
    "parse_training",
    "training_of",
]
