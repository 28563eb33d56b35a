"""Logging of metrics to metrics.jsonl, trackers and the terminal."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from tqdm import tqdm

from dataset_builders.files import append

TRACKER = "urbanln"  # name of the run in trackers, and of its folder in logs/
SHOWN_METRICS = (  # short name, name in metrics.jsonl, decimals
    ("loss", "loss", 3),
    ("L_C", "contrastive_loss", 3),
    ("L_D", "distillation_loss", 3),
    ("scale", "logit_scale", 1),
    ("entropy", "target_entropy", 2),
    ("images/s", "images_per_second", 1),
)


class RunLog:
    """Records metrics and shows progress on the main process.

    Args:
        accelerator: Accelerator with the trackers.
        path: Path of metrics.jsonl.
    """

    def __init__(self, accelerator: Accelerator, path: Path):
        self.accelerator = accelerator
        self.path = path
        self.bar: Any = None

    def record(self, row: dict[str, Any]) -> None:
        """Append a row to metrics.jsonl, flushed to disk, and send it to the trackers."""
        if self.accelerator.is_main_process:
            append(self.path, (json.dumps(row) + "\n").encode())
        values = {name: value for name, value in row.items() if name != "step"}
        self.accelerator.log(values, step=row["step"])

    def say(self, text: str) -> None:
        """Print a line to stderr, above the progress bar."""
        if self.accelerator.is_main_process:
            with tqdm.external_write_mode(sys.stderr):
                print(text, file=sys.stderr, flush=True)

    def steps(self, start: int, stop: int) -> Iterator[int]:
        """Iterate over steps with a progress bar, if stderr is a terminal."""
        hidden = not self.accelerator.is_main_process or not sys.stderr.isatty()
        self.bar = tqdm(
            range(start, stop), "Pretraining", stop, initial=start, unit="step", disable=hidden
        )
        return iter(self.bar)

    def record_losses(self, row: dict[str, Any]) -> None:
        """Record the losses of a step, and show them in the progress bar or on a line."""
        self.record(row)
        shown = {
            short: f"{row[name]:.{digits}f}"
            for short, name, digits in SHOWN_METRICS
            if name in row  # some need a teacher
        }
        self.bar.set_postfix(shown)
        if self.bar.disable:
            text = "  ".join(f"{name} {value}" for name, value in shown.items())
            self.say(f"step {row['step']}/{self.bar.total}  {text}")

    def record_retrieval(self, row: dict[str, Any], improved: bool) -> None:
        """Record and print validation retrieval."""
        self.record(row)
        self.say(
            f"step {row['step']}/{self.bar.total}  validation: "
            f"image to text R@1 {row['image_to_text_recall_at_1']:.3f} "
            f"R@5 {row['image_to_text_recall_at_5']:.3f}, "
            f"text to image R@1 {row['text_to_image_recall_at_1']:.3f} "
            f"R@5 {row['text_to_image_recall_at_5']:.3f} "
            f"(chance {row['chance_recall_at_1']:.3f}, {row['chance_recall_at_5']:.3f})"
            f"{'  best so far' if improved else ''}"
        )


__all__ = ["TRACKER", "RunLog"]
