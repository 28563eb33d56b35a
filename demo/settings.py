"""Settings of the demo from flags or, if not given, from `demo.json`."""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.evaluation.errors import InputError

DEMO_JSON = Path(__file__).with_name("demo.json")
NAMES = ("dataset_name", "encoder", "embeddings", "results", "captions", "city")
DESCRIPTION = """\
Interactive page for a model and a dataset: map, text search, uploaded images, caption candidates.

  python -m demo.app --dataset_name runs/quickstart/dataset --encoder runs/quickstart/model \\
      --embeddings runs/quickstart/embeddings --results runs/quickstart/results

Flags that are not given are read from demo/demo.json, whose keys are the names of the flags and
whose paths are relative to its folder.
"""


@dataclass(frozen=True)
class DemoSettings:
    """Settings of the demo.

    Attributes:
        dataset_name: Dataset folder or Hub id.
        encoder: Encoder of the embeddings: name of a built-in encoder, model folder or Hub id.
        embeddings: Embedding tables, or folders that contain them.
        results: Output folder of `evaluate.py probe`; None shows no scores.
        city: City shown first; None for the first one with embeddings.
        captions: Dataset of the captions tab; None for `dataset_name`.
    """

    dataset_name: str
    encoder: str
    embeddings: tuple[str, ...]
    results: str | None = None
    city: str | None = None
    captions: str | None = None


def parse_arguments(argv: Sequence[str] | None = None) -> tuple[DemoSettings, int | None]:
    """Parse the command line into settings and port (None: chosen by Gradio).

    Raises:
        InputError: Dataset, encoder or embeddings are not set.
    """
    parser = argparse.ArgumentParser(
        prog="python -m demo.app",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--dataset_name", help="dataset folder or Hub id")
    parser.add_argument(
        "--encoder",
        "--model_name_or_path",
        help="built-in encoder, or folder or Hub id of a vision or image-text model; text "
        "search needs an image-text model",
    )
    parser.add_argument(
        "--embeddings", nargs="+", help="tables of `evaluate.py embed`, or folders with tables"
    )
    parser.add_argument("--results", help="output folder of `evaluate.py probe`, to show scores")
    parser.add_argument("--captions", help="dataset of the captions tab; default: --dataset_name")
    parser.add_argument("--city", help="city shown first")
    parser.add_argument("--server_port", type=int, help="default: first free port from 7860")
    options = parser.parse_args(argv)
    return read_settings(vars(options)), options.server_port


def read_settings(given: Mapping[str, Any], demo_json: Path = DEMO_JSON) -> DemoSettings:
    """Combine the settings of flags and file; flags take precedence.

    Args:
        given: Values of the flags; None for flags not given.
        demo_json: Path of the file, which need not exist.

    Raises:
        InputError: Dataset, encoder or embeddings are not set, or the file cannot be read.
    """
    stored = _read_json(demo_json)
    values: dict[str, Any] = {name: given.get(name) or stored.get(name) for name in NAMES}
    if missing := [name for name in NAMES[:3] if not values[name]]:
        raise InputError(
            f"The demo needs {' and '.join(f'--{name}' for name in missing)}. `make quickstart` "
            "followed by `make demo` shows a complete example."
        )
    embeddings = values["embeddings"]
    values["embeddings"] = (embeddings,) if isinstance(embeddings, str) else tuple(embeddings)
    return DemoSettings(**values)


def _read_json(path: Path) -> dict[str, Any]:
    """Values by name of the setting, with paths resolved relative to the folder of the file."""
    if not path.is_file():
        return {}
    try:
        content = dict(json.loads(path.read_text(encoding="utf-8")))
    except (TypeError, ValueError) as error:
        raise InputError(f"{path} is not a JSON object ({error}).") from error
    if "model_name_or_path" in content:
        content["encoder"] = content.pop("model_name_or_path")
    if unknown := sorted(set(content) - set(NAMES)):
        raise InputError(f"{path} has unknown keys {unknown}; known: {', '.join(NAMES)}.")

    def resolved(value: Any) -> Any:
        if isinstance(value, list):
            return [resolved(one) for one in value]
        here = path.parent / str(value)
        return str(here) if here.exists() else value  # others are Hub ids

    return {name: value if name == "city" else resolved(value) for name, value in content.items()}


__all__ = ["NAMES", "DemoSettings", "parse_arguments", "read_settings"]
