"""Logging of metrics to metrics.jsonl, trackers and the terminal."""

import json
import sys
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from tqdm import tqdm

from dataset_builders.files import append, atomic_path

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
        self.bar: tqdm | None = None
        self.max_steps = 0

    def record(self, row: dict[str, Any]) -> None:
        """Append a row to metrics.jsonl, flushed to disk, and send it to the trackers."""
        if self.accelerator.is_main_process:
            append(self.path, (json.dumps(row) + "\n").encode())
        values = {name: value for name, value in row.items() if name != "step"}
        self.accelerator.log(values, step=row["step"])

    def rows(self) -> list[dict[str, Any]]:
        """All complete rows; an unfinished last line is ignored."""
        text = self.path.read_text(encoding="utf-8") if self.path.exists() else ""
        rows = []
        for line in text.splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                break
        return rows

    def keep_until(self, step: int) -> None:
        """Remove the rows after a step, which will be recorded again; -1 removes all."""
        if self.accelerator.is_main_process and self.path.exists():
            rows = [row for row in self.rows() if row["step"] <= step]
            with atomic_path(self.path) as temporary:
                temporary.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def say(self, text: str) -> None:
        """Print a line to stderr, above the progress bar."""
        if self.accelerator.is_main_process:
            with tqdm.external_write_mode(sys.stderr):
                print(text, file=sys.stderr, flush=True)

    def start(self, step: int, max_steps: int) -> None:
        """Show a progress bar if stderr is a terminal."""
        self.max_steps = max_steps
        hidden = not self.accelerator.is_main_process or not sys.stderr.isatty()
        self.bar = tqdm(
            total=max_steps, initial=step, desc="Pretraining", unit="step", disable=hidden
        )

    def advance(self) -> None:
        """Advance the progress bar."""
        assert self.bar is not None
        self.bar.update()

    def close(self) -> None:
        """Close the progress bar."""
        if self.bar is not None:
            self.bar.close()

    def record_losses(self, row: dict[str, Any]) -> None:
        """Record the losses of a step, and show them in the progress bar or on a line."""
        self.record(row)
        shown = {
            short: f"{row[name]:.{digits}f}"
            for short, name, digits in SHOWN_METRICS
            if name in row  # some need a teacher
        }
        assert self.bar is not None
        self.bar.set_postfix(shown)
        if self.bar.disable:
            text = "  ".join(f"{name} {value}" for name, value in shown.items())
            self.say(f"step {row['step']}/{self.max_steps}  {text}")

    def record_retrieval(self, row: dict[str, Any], improved: bool) -> None:
        """Record and print validation retrieval."""
        self.record(row)
        self.say(
            f"step {row['step']}/{self.max_steps}  validation: "
            f"image to text R@1 {row['image_to_text_recall_at_1']:.3f} "
            f"R@5 {row['image_to_text_recall_at_5']:.3f}, "
            f"text to image R@1 {row['text_to_image_recall_at_1']:.3f} "
            f"R@5 {row['text_to_image_recall_at_5']:.3f} "
            f"(chance {row['chance_recall_at_1']:.3f}, {row['chance_recall_at_5']:.3f})"
            f"{'  best so far' if improved else ''}"
        )


__all__ = ["TRACKER", "RunLog"]
