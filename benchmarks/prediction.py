"""Overhead of `predict` over embedding and estimation.

    python -m benchmarks.prediction PHOTOS REGIONS REGION_ID INDICATOR [ENCODER]

Prints the CPU time of both parts and the ratio of the complete command to their sum.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pipelines.prediction.predict as module


def main() -> None:
    photos, regions, region_id, indicator, *encoder = sys.argv[1:]
    spent: dict[str, float] = {}
    for name in ("embed", "estimate"):
        setattr(module, name, _timed(getattr(module, name), name, spent))
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        module.predict_regions(
            photos,
            regions,
            region_id,
            {indicator: "as given"},
            encoder[0] if encoder else "colour_texture",
            output_dir=Path(folder),
        )
        total = time.process_time() - start
    parts = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in spent.items())
    print(f"CPU time: total {total:.1f} s, {parts}; ratio {total / sum(spent.values()):.3f}")


def _timed(function: Callable[..., Any], name: str, spent: dict[str, float]) -> Callable[..., Any]:
    def timed(*arguments: Any, **named: Any) -> Any:
        start = time.process_time()
        try:
            return function(*arguments, **named)
        finally:
            spent[name] = time.process_time() - start

    return timed


if __name__ == "__main__":
    main()
