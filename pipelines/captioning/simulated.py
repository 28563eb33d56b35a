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
_DETECTOR_OPTIONS = ("miss_rate", "false_alarm_rate", "threshold", "seed")


def open_simulated_model(config: Mapping[str, Any]) -> SimulatedCaptionModel:
    """A simulated captioner.

    Args:
        config: `name` and `dataset_name` (a folder with `truth/`); `captioner`, whose words and
            rates it has (by default its name); `omission` and `hallucination` in place of that
            captioner's own; and the rates of `MergeErrors`.

    Raises:
        CaptioningError: no such captioner, an unknown option, a rate outside [0, 1), or no truth.
    """
    options = {name: value for name, value in config.items() if name != "client"}
    name, dataset_name = options.pop("name"), options.pop("dataset_name")
    captioner = captioner_named(options.pop("captioner", name))
    _check_options(options, (*_RATES, *_MERGE_RATES), f"the simulated model {name!r}")
    for option, value in options.items():
        if not 0 <= value < 1:
            raise CaptioningError(f"`{option}` of {name!r} must be from 0 to below 1, got {value}.")
    captioner = replace(captioner, **{key: options[key] for key in _RATES if key in options})
    errors = MergeErrors(**{key: options[key] for key in _MERGE_RATES if key in options})
    return SimulatedCaptionModel(name, captioner, open_truth(str(dataset_name)), errors)


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
