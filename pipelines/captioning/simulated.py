"""Simulated models for the embedded synthetic city, opened by name from a recipe.

    models:
      - {name: synthetic-amber, client: simulated}
    filter:
      detector: {name: simulated, options: {miss_rate: 0.03, false_alarm_rate: 0.2}}

With them the whole pipeline runs in minutes on a CPU, on images whose truth is known. What comes of
it is synthetic.
"""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from .errors import CaptioningError
from .simulated_captioner import SimulatedCaptionModel, captioner_named
from .simulated_detector import SimulatedDetector
from .simulated_merge import MergeErrors
from .simulated_truth import open_truth

_RATES = ("omission", "hallucination")
_MERGE_RATES = tuple(field.name for field in fields(MergeErrors))
LOCAL_HALLUCINATION = 0.5
_DETECTOR_OPTIONS = ("miss_rate", "false_alarm_rate", "threshold", "seed")


def open_model(config: Mapping[str, Any], dataset_name: str) -> SimulatedCaptionModel:
    """Open a simulated captioner from a recipe; see [`open_simulated_model`]."""
    return open_simulated_model({"dataset_name": dataset_name, **config})


def open_simulated_model(config: Mapping[str, Any]) -> SimulatedCaptionModel:
    """A simulated captioner.

    Args:
        config: `name` and `dataset_name` (a folder with `truth/`); `captioner`, whose words and
            rates it has (by default its name); `omission` and `hallucination` in place of that
            captioner's own; `local_hallucination`, see `SimulatedCaptionModel`; and the rates of
            `MergeErrors`.

    Raises:
        CaptioningError: no such captioner, an unknown option, a rate outside [0, 1], or no truth.
    """
    options = {name: value for name, value in config.items() if name != "client"}
    name, dataset_name = options.pop("name"), options.pop("dataset_name")
    captioner = captioner_named(options.pop("captioner", name))
    known = (*_RATES, "local_hallucination", *_MERGE_RATES)
    _check_options(options, known, f"the simulated model {name!r}")
    for option, value in options.items():
        highest = 0.9 if option == "hallucination" else 1.0  # one in ten has to be true
        if not 0 <= value <= highest:
            raise CaptioningError(
                f"`{option}` of {name!r} must lie between 0 and {highest}, got {value}."
            )
    captioner = replace(captioner, **{key: options[key] for key in _RATES if key in options})
    errors = MergeErrors(**{key: options[key] for key in _MERGE_RATES if key in options})
    local = options.get("local_hallucination", LOCAL_HALLUCINATION)
    return SimulatedCaptionModel(name, captioner, open_truth(str(dataset_name)), errors, local)


def open_simulated_detector(config: Mapping[str, Any]) -> SimulatedDetector:
    """A simulated detector.

    Args:
        config: `dataset_name` (a folder with `truth/`) and options of `SimulatedDetector`.

    Raises:
        CaptioningError: an unknown option, a rate that is none, or no truth.
    """
    options = dict(config)
    dataset_name = options.pop("dataset_name")
    _check_options(options, _DETECTOR_OPTIONS, "the simulated detector")
    return SimulatedDetector(open_truth(str(dataset_name)), **options)


def _check_options(options: Mapping[str, Any], known: tuple[str, ...], whose: str) -> None:
    if unknown := sorted(set(options) - set(known)):
        raise CaptioningError(
            f"There is no option {', '.join(unknown)} of {whose}; there are {', '.join(known)}."
        )


__all__ = [
    "SimulatedCaptionModel",
    "SimulatedDetector",
    "open_simulated_detector",
    "open_simulated_model",
]
