"""Simulated models for the synthetic city: captions and detections with known errors, no weights.

    models:
      - {name: synthetic-amber, client: simulated}
    filter:
      detector: {name: simulated, options: {miss_rate: 0.03, false_alarm_rate: 0.2}}

They answer from the ground truth of the synthetic city, so the complete pipeline runs in minutes on
a CPU. All results are *synthetic*.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dataset_builders.synthetic.captioners import CAPTIONERS

from ..errors import CaptioningError
from .detector import SimulatedDetector
from .models import MergeErrors, SimulatedCaptionModel
from .truth import open_truth

LOCAL_HALLUCINATION = 0.5


def open_model(config: Mapping[str, Any], dataset_name: str) -> SimulatedCaptionModel:
    """Create a simulated captioner.

    Args:
        config: `name`; `captioner`, which sets wording and error rates (`name` by default);
            `omission` and `hallucination`, which override its rates; `opening`, the text before
            the first fact; `local_hallucination`, see `SimulatedCaptionModel`; and the rates of
            `MergeErrors`.
        dataset_name: Folder of a synthetic dataset with ground truth (`truth/`).

    Raises:
        CaptioningError: Unknown captioner or option, rate out of range, or no ground truth.
    """
    options = dict(config)
    name = options.pop("name")
    wanted = options.pop("captioner", name)
    captioners = {captioner.name: captioner for captioner in CAPTIONERS}
    if str(wanted) not in captioners:
        raise CaptioningError(
            f"Unknown simulated captioner {wanted!r}; available: {', '.join(captioners)}."
        )
    own: dict[str, Any] = {"opening": str(options.pop("opening"))} if "opening" in options else {}
    for option, value in options.items():
        highest = 0.5 if option == "hallucination" else 1.0  # one made-up fact for each true one
        if not (isinstance(value, int | float) and 0 <= value <= highest):
            raise CaptioningError(
                f"`{option}` of {name!r} must be a number between 0 and {highest}, got {value!r}."
            )
    local = options.pop("local_hallucination", LOCAL_HALLUCINATION)
    rates = {one: options.pop(one) for one in ("omission", "hallucination") if one in options}
    try:
        errors = MergeErrors(**options)
    except TypeError as error:
        raise CaptioningError(
            f"Invalid options of the simulated model {name!r}: {error}."
        ) from error
    captioner = replace(captioners[wanted], **rates, **own)
    return SimulatedCaptionModel(name, captioner, open_truth(dataset_name), errors, local)


def open_detector(dataset_name: str, **options: Any) -> SimulatedDetector:
    """Create a simulated detector.

    Args:
        dataset_name: Folder of a synthetic dataset with ground truth (`truth/`).
        options: Options of `SimulatedDetector`.

    Raises:
        CaptioningError: Rate out of range, or no ground truth.
    """
    return SimulatedDetector(open_truth(dataset_name), **options)


__all__ = ["SimulatedCaptionModel", "SimulatedDetector", "open_detector", "open_model"]
