"""Simulated models for the synthetic city: captions and detections with known errors, no weights.

    models:
      - {name: synthetic-amber, client: simulated}
    filter:
      detector: {name: simulated, options: {miss_rate: 0.03, false_alarm_rate: 0.2}}

They answer from the truth that the city was drawn from, so the whole pipeline runs in minutes on a
CPU. What comes of it is *synthetic*.
"""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from ..errors import CaptioningError
from .captioner import SimulatedCaptionModel, captioner_named
from .detector import SimulatedDetector
from .merge import MergeErrors
from .truth import open_truth

LOCAL_HALLUCINATION = 0.5
_RATES = ("omission", "hallucination")
_MERGE_RATES = tuple(field.name for field in fields(MergeErrors))
_DETECTOR_OPTIONS = ("miss_rate", "false_alarm_rate", "threshold", "seed")


def open_model(config: Mapping[str, Any], dataset_name: str) -> SimulatedCaptionModel:
    """Open a simulated captioner.

    Args:
        config: `name`; `captioner`, whose words and rates it has (its name by default); `omission`
            and `hallucination` instead of that captioner's own; `local_hallucination`, see
            `SimulatedCaptionModel`; and the rates of `MergeErrors`.
        dataset_name: Folder of a synthetic dataset, with `truth/`.

    Raises:
        CaptioningError: no such captioner, an unknown option, a rate out of range, or no truth.
    """
    options = dict(config)
    name = options.pop("name")
    captioner = captioner_named(options.pop("captioner", name))
    known = (*_RATES, "local_hallucination", *_MERGE_RATES)
    _check_options(options, known, f"the simulated model {name!r}")
    for option, value in options.items():
        highest = 0.9 if option == "hallucination" else 1.0  # one statement in ten has to be true
        if not 0 <= value <= highest:
            raise CaptioningError(
                f"`{option}` of {name!r} must lie between 0 and {highest}, got {value}."
            )
    local = options.pop("local_hallucination", LOCAL_HALLUCINATION)
    rates = {option: options.pop(option) for option in _RATES if option in options}
    return SimulatedCaptionModel(
        name, replace(captioner, **rates), open_truth(dataset_name), MergeErrors(**options), local
    )


def open_detector(options: Mapping[str, Any], dataset_name: str) -> SimulatedDetector:
    """Open a simulated detector.

    Args:
        options: Options of `SimulatedDetector`; `dataset_name` may be among them.
        dataset_name: Folder of a synthetic dataset, with `truth/`.

    Raises:
        CaptioningError: an unknown option, a rate out of range, or no truth.
    """
    values = dict(options)
    truth = open_truth(values.pop("dataset_name", dataset_name))
    _check_options(values, _DETECTOR_OPTIONS, "the simulated detector")
    return SimulatedDetector(truth, **values)


def _check_options(options: Mapping[str, Any], known: tuple[str, ...], whose: str) -> None:
    if unknown := sorted(set(options) - set(known)):
        raise CaptioningError(
            f"There is no option {', '.join(unknown)} of {whose}; there are {', '.join(known)}."
        )


__all__ = ["SimulatedCaptionModel", "SimulatedDetector", "open_detector", "open_model"]
