"""Settings of the demo from flags, environment variables or `demo.json`, in this order."""

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.evaluation.errors import InputError

DEMO_JSON = Path(__file__).with_name("demo.json")
VARIABLES = {
    "dataset_name": "URBANLN_DEMO_DATASET",
    "encoder": "URBANLN_DEMO_MODEL",
    "embeddings": "URBANLN_DEMO_EMBEDDINGS",
    "results": "URBANLN_DEMO_RESULTS",
    "captions": "URBANLN_DEMO_CAPTIONS",
    "city": "URBANLN_DEMO_CITY",
}
NAMES = tuple(VARIABLES)
ALIASES = {"model_name_or_path": "encoder"}
PATHS = ("dataset_name", "encoder", "embeddings", "results", "captions")
DESCRIPTION = """\
Interactive page for a model and a dataset: map, text search, uploaded images, caption candidates.

  python -m demo.app --dataset_name runs/quickstart/dataset --encoder runs/quickstart/model \\
      --embeddings runs/quickstart/embeddings --results runs/quickstart/results

Other settings are read from the environment variables URBANLN_DEMO_DATASET, _MODEL, _EMBEDDINGS
(several paths are separated as in PATH), _RESULTS, _CAPTIONS and _CITY, or from demo/demo.json,
whose keys are the names of the flags and whose paths are relative to its folder.
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
        help="built-in encoder, or folder or Hub id of a vision or image-text model (safetensors "
        "only); text search needs an image-text model",
    )
    parser.add_argument(
        "--embeddings", nargs="+", help="tables of `evaluate.py embed`, or folders with tables"
    )
    parser.add_argument("--results", help="output folder of `evaluate.py probe`, to show scores")
    parser.add_argument("--captions", help="dataset of the captions tab; default: --dataset_name")
    parser.add_argument("--city", help="city shown first")
    parser.add_argument("--server_port", type=int, help="default: first free port from 7860")
    options = parser.parse_args(argv)
    given = {name: getattr(options, name) for name in NAMES}
    return read_settings(given, os.environ), options.server_port


def read_settings(
    given: Mapping[str, Any], environment: Mapping[str, str], demo_json: Path = DEMO_JSON
) -> DemoSettings:
    """Combine the settings of flags, environment and file, in this order of precedence.

    Args:
        given: Values of the flags; None for flags not given.
        environment: Environment variables.
        demo_json: Path of the file, which need not exist.

    Raises:
        InputError: Dataset, encoder or embeddings are not set, or the file cannot be read.
    """
    stored = _read_json(demo_json)
    values: dict[str, Any] = {
        name: given.get(name) or _variable(environment, name) or stored.get(name) for name in NAMES
    }
    missing = [name for name in NAMES[:3] if not values[name]]
    if missing:
        raise InputError(
            f"The demo needs {' and '.join(f'--{name}' for name in missing)} (or "
            f"{', '.join(VARIABLES[name] for name in missing)}). `make quickstart` followed by "
            "`make demo` shows a complete example."
        )
    embeddings = values["embeddings"]
    several = [embeddings] if isinstance(embeddings, str) else embeddings
    values["embeddings"] = tuple(map(str, several))
    return DemoSettings(**values)


def _variable(environment: Mapping[str, str], name: str) -> Any:
    value = environment.get(VARIABLES[name])
    return value.split(os.pathsep) if value and name == "embeddings" else value


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        content = {ALIASES.get(name, name): value for name, value in content.items()}
        unknown = sorted(set(content) - set(NAMES))
    except (AttributeError, ValueError) as error:
        raise InputError(f"{path} is not a JSON object ({error}).") from error
    if unknown:
        raise InputError(f"{path} has unknown keys {unknown}; known: {', '.join(NAMES)}.")
    return {name: _from(path.parent, name, value) for name, value in content.items()}


def _from(folder: Path, name: str, value: Any) -> Any:
    """Resolve paths relative to the folder of the file; paths that do not exist are Hub ids."""
    if isinstance(value, list):
        return [_from(folder, name, one) for one in value]
    here = folder / str(value)
    return str(here) if name in PATHS and here.exists() else value


__all__ = ["NAMES", "VARIABLES", "DemoSettings", "parse_arguments", "read_settings"]
