"""Sizes and speeds in a report: a table and a figure of what `evaluate.py efficiency` measured."""

import json
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..probe.results import EFFICIENCY_FILE
from .documents import Block, Heading, Picture, Text
from .plots import STYLE, save
from .table_formats import Table, number, words

KINDS = {"total": "#9db8cc", "trainable": "#1f5f8b", "inference": "#c77700"}
BATCH_COLOURS = ("#7fae8c", "#3f7f4f")
PICTURE = "efficiency.png"


def efficiency_blocks(run: Path, output: Path, folder: str) -> list[Block]:
    """Table and figure; nothing where nothing was measured.

    Args:
        run: folder of efficiency.json.
        output: where the page lies.
        folder: of the pictures, below it.
    """
    path = run / EFFICIENCY_FILE
    if not path.is_file():
        return []
    measured = json.loads(path.read_text(encoding="utf-8"))
    systems, where = measured["systems"], measured["machine"]
    title = "Size and speed of the encoders"
    _draw(output / folder / PICTURE, title, systems)
    (output / folder).mkdir(parents=True, exist_ok=True)
    told = (
        f"{where['device']}, {where['cores']} cores, {where['threads']} threads, "
        f"{where['precision']}, torch {where['torch']}, {where['clock']}"
    )
    return [
        Heading(2, title),
        Text(
            f"Measured on: {told}. The load of the machine was {where['load']:.1f} at the end; "
            "where it is above the number of cores, other work ran beside, and a wall clock "
            "shows less than the machine can do."
        ),
        _table(title, systems),
        Picture(f"{folder}/{PICTURE}", title, f"{title}, both axes logarithmic. {told}."),
    ]


def _table(title: str, systems: list[dict[str, Any]]) -> Table:
    batches = [speed["regions"] for speed in systems[0]["speeds"]]
    body = []
    for one in systems:
        cells = [number(one[kind], form=",d") for kind in KINDS]
        for speed in one["speeds"]:
            cells.append(number(speed["images"] / speed["seconds"], form=",.1f"))
            cells.append(number(speed["regions"] / speed["seconds"], form=",.1f"))
        body.append(
            (*words(one["system"], one["size"]), number(one["image_size"], form="d"), *cells)
        )
    return Table(
        name="efficiency",
        title=title,
        header=(
            "system", "size", "pixels", *KINDS, *("images/s", "regions/s") * len(batches)
        ),
        rows=tuple(body),
        notes=(
            "Total: parameters of training and of what is kept, UrbanLN's teacher among them. "
            "Trainable: those with a gradient. Inference: those that run when a region is encoded. "
            "Speed is from decoded pixels to vectors; a batch is of regions, each with its images "
            "of the views that the system sees.",
        ),
        groups=(
            *(("", 1),) * 3, ("parameters", len(KINDS)),
            *((f"batch of {n} region{'s' * (n > 1)}", 2) for n in batches),
        ),
    )  # fmt: skip


def _draw(path: Path, title: str, systems: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    names = [f"{one['system']} ({one['size']})" for one in systems]
    batches = [speed["regions"] for speed in systems[0]["speeds"]]
    sizes = {kind: [one[kind] for one in systems] for kind in KINDS}
    speeds = {
        f"batch of {regions}": [
            one["speeds"][i]["images"] / one["speeds"][i]["seconds"] for one in systems
        ]
        for i, regions in enumerate(batches)
    }
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 0.42 * len(names) + 1.6), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        _bars(left, names, sizes, tuple(KINDS.values()), "parameters")
        _bars(right, names, speeds, BATCH_COLOURS, "images a second")
        figure.suptitle(title, fontsize=12)
        save(figure, path)


def _bars(
    axes: Axes,
    names: list[str],
    values: dict[str, list[float]],
    colours: tuple[str, ...],
    label: str,
) -> None:
    height = 0.8 / len(values)
    for i, (name, own) in enumerate(values.items()):
        y = [row - 0.4 + height * (i + 0.5) for row in range(len(names))]
        shown = [value if value > 0 else float("nan") for value in own]
        axes.barh(y, shown, 0.9 * height, color=colours[i % len(colours)], label=name)
    axes.set_xscale("log")
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(label)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(values), frameon=False)


__all__ = ["efficiency_blocks"]
