"""Sections on transfer, retrieval, zero-shot scores and efficiency."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ..analysis.bootstrap import MEAN
from ..probe.results import CITY, CITY_ENCODER, EFFICIENCY_FILE, JOINT, TRANSFER_FILE
from ..probe.systems import NO_VIEW
from .figures import draw_bars, draw_matrices
from .frame import (
    CONTROL_TITLES,
    PROBE_NAMES,
    VIEW_NAMES,
    VIEW_ORDER,
    CityResults,
    city_title,
    slug,
)
from .rendering import Block, Column, Figure, Section, Table, intervals, numbers, words

TRANSFERS = {
    CITY_ENCODER: "Encoder trained in the source, probe in the target (`city-encoder`)",
    CITY: "Encoder and probe trained in the source (`city`)",
}
TRANSFER_FOLDER = "transfer/results"  # relative to the parent of the results folder
MATRIX = ["system", "view", "probe"]
DIRECTIONS = {
    "image_to_text": "image → text",
    "text_to_image": "text → image",
    "text_to_region": "text → region",
}
SIZES = ("total", "trainable", "inference")


# ---- transfer between cities --------------------------------------------------------------------


def read_transfer(folder: Path) -> pd.DataFrame | None:
    """Read the results of `evaluate.py transfer`, averaged over trainings; None without any.

    Returns:
        Columns protocol, source, target, system, view, probe, indicator, synthetic, r2, trainings.
    """
    path = folder / TRANSFER_FILE
    if not path.is_file():
        return None
    lines = pd.read_csv(path, keep_default_na=False, na_values=[""])
    lines["label"] = lines["system"]
    lines["system"] = lines["group"].fillna(lines["system"])
    by = ["protocol", "source", "target", *MATRIX, "indicator", "synthetic"]
    cells = lines.groupby(by, sort=False)
    return cells.agg(r2=("r2", "mean"), trainings=("label", "nunique")).reset_index()


def matrix(part: pd.DataFrame, indicator: str = MEAN) -> pd.DataFrame:
    """R2 by source and target, by default averaged over indicators; joint sources come last."""
    if indicator != MEAN:
        part = part[part["indicator"] == indicator]
    wide = part.pivot_table(index="source", columns="target", values="r2", aggfunc="mean")
    return wide.loc[sorted(wide.index, key=lambda name: (name.count(JOINT), name))]


def transfer_section(results: pd.DataFrame, output: Path, folder: str) -> Section:
    """Section with tables and heat maps of the transfer.

    Args:
        results: Table from [`read_transfer`].
        output: Report folder.
        folder: Folder of the figures, relative to `output`.
    """
    mark = " (synthetic)" if results["synthetic"].any() else ""
    trainings = int(results["trainings"].max())
    seeds = f" Mean over {trainings} training seeds." if trainings > 1 else ""
    blocks: list[Block] = [
        "Two settings: an encoder trained in the source city, with a probe trained on labels of "
        "the target city; and an encoder and a probe trained in the source city, without labels "
        "of the target. In the first, equal source and target are the scores without transfer."
        f"{seeds}"
    ]
    for protocol, question in TRANSFERS.items():
        own = results[results["protocol"] == protocol]
        if (own["view"] != NO_VIEW).any():
            figures = _transfer_figures(own, protocol, mark, output, folder)
            blocks.append(
                Section(question + mark, [_transfer_table(own, protocol, mark), *figures])
            )
    return Section(f"Transfer between cities{mark}", blocks)


def _order(key: tuple[str, str, str]) -> tuple[Any, ...]:
    system, view, probe = key
    return view != NO_VIEW, probe != "mlp", system, VIEW_ORDER.index(view)


def _transfer_table(own: pd.DataFrame, protocol: str, mark: str) -> Table:
    targets = sorted(own["target"].unique())
    parts: dict[Any, pd.DataFrame] = dict(list(own.groupby(MATRIX)))
    rows: pd.DataFrame = pd.concat(
        {key: matrix(parts[key]).reindex(columns=targets) for key in sorted(parts, key=_order)}
    )
    systems, views, probes, sources = (rows.index.get_level_values(level) for level in range(4))
    return Table(
        f"transfer-{protocol}",
        f"{TRANSFERS[protocol].replace('`', '')}, mean R² over indicators{mark}",
        [
            words("system", (CONTROL_TITLES.get(name, name) for name in systems)),
            words("view", (VIEW_NAMES[name] for name in views)),
            words("probe", (PROBE_NAMES[name] for name in probes)),
            words("trained in", map(_city, sources)),
            *(numbers(_city(name), rows[name]) for name in targets),
        ],
        notes=[
            "Columns: target city. Negative R²: worse than predicting the mean label of the target "
            "city, which is unknown in practice."
        ],
    )


def _transfer_figures(
    own: pd.DataFrame, protocol: str, mark: str, output: Path, folder: str
) -> Iterator[Block]:
    """Heat maps per system with one panel per view, and folded sections per indicator."""
    seen = own[own["view"] != NO_VIEW]
    first = min(seen["probe"], key=lambda probe: probe != "mlp")
    question = TRANSFERS[protocol].split(" (")[0]
    for system, part in seen[seen["probe"] == first].groupby("system"):
        title = f"{question}{mark}: {system}, {PROBE_NAMES[first]}"
        views = {
            view: part[part["view"] == view] for view in VIEW_ORDER if view in set(part["view"])
        }
        panels = {VIEW_NAMES[view]: matrix(one) for view, one in views.items()}
        names = (protocol, str(system))
        yield _heat_map(f"{title}, mean R² over indicators", panels, names, output, folder)
        single = [
            _heat_map(
                f"{title}, {VIEW_NAMES[view]}, R² of each indicator",
                {name: matrix(one, name) for name in one["indicator"].unique()},
                (*names, view),
                output,
                folder,
            )
            for view, one in views.items()
        ]
        yield Section(f"{title}: per indicator", single, folded=True)


def _heat_map(
    title: str,
    panels: dict[str, pd.DataFrame],
    names: Sequence[str],
    output: Path,
    folder: str,
) -> Figure:
    rows = list(dict.fromkeys(name for one in panels.values() for name in one.index))
    columns = sorted({name for one in panels.values() for name in one.columns})
    shown = {
        name: one.reindex(index=rows, columns=columns).rename(index=_city, columns=_city)
        for name, one in panels.items()
    }
    path = f"{folder}/{slug('transfer', *names)}.png"
    draw_matrices(output / path, title, shown)
    caption = f"{title}. White: R² = 0, the mean label of the target city. Grey: not evaluated."
    return Figure(path, title, caption)


def _city(name: str) -> str:
    return " + ".join(city_title(part, synthetic=False) for part in name.split(JOINT))


# ---- retrieval and zero-shot scores -------------------------------------------------------------


def _read_all(output: Path, city: CityResults, pattern: str) -> list[dict[str, Any]]:
    """JSON files of a city in the results folder and its documented sibling folders."""
    folders = [output, *(output.parent / name for name in ("retrieval", "zero_shot", "embeddings"))]
    found = [path for one in folders for path in sorted((one / city.name).glob(pattern))]
    return [json.loads(path.read_text(encoding="utf-8")) for path in found]


def retrieval_table(output: Path, city: CityResults) -> Table | None:
    """Table of `evaluate.py retrieve` results, with chance levels; None without results."""
    found = _read_all(output, city, "retrieval-*.json")
    rows = [(one, name, one["directions"][name]) for one in found for name in DIRECTIONS]
    if not rows:
        return None
    ks = sorted(int(key.removeprefix("recall_at_")) for key in rows[0][2] if key.startswith("rec"))
    return Table(
        slug(city.name, "retrieval"),
        f"Retrieval between images and captions, {city.title}",
        [
            words("model", (one["name"] for one, _, _ in rows)),
            words("view", (VIEW_NAMES[one["view"]] for one, _, _ in rows)),
            words("direction", (DIRECTIONS[name] for _, name, _ in rows)),
            *(
                numbers(name, (own[key] for _, _, own in rows), group=f"recall at {k}")
                for k in ks
                for name, key in (("model", f"recall_at_{k}"), ("chance", f"chance_recall_at_{k}"))
            ),
            numbers("median rank", (own["median_rank"] for _, _, own in rows), form=",g"),
            numbers("queries", (own["queries"] for _, _, own in rows), form=",.0f"),
            numbers("candidates", (own["candidates"] for _, _, own in rows), form=",.0f"),
        ],
        notes=[
            "Chance: a random ranking of the candidates. For a caption of several images, each of "
            "them counts as a match."
        ],
    )


def zero_shot_table(output: Path, city: CityResults) -> Table | None:
    """Table of correlations between zero-shot scores and indicators; None without results."""
    found = _read_all(output, city, "zero-shot-*.json")
    rows = [(one, agreement) for one in found for agreement in one["agreement"]]
    if not rows:
        return None
    frame = pd.DataFrame([agreement for _, agreement in rows])
    null = [
        f"{low:+.2f} to {high:+.2f}" for low, high in frame[["null_low", "null_high"]].to_numpy()
    ]
    columns = [
        words("model", (one["model"] for one, _ in rows)),
        words("view", frame["view"].map(VIEW_NAMES)),
        words("score", frame["score"]),
        words("indicator", frame["indicator"]),
        numbers("regions", frame["n"], form=",.0f"),
        intervals("rank correlation, 95 % interval", frame["spearman"],
                  *(pd.to_numeric(frame[end]) for end in ("low", "high"))),
        words("95 % range for shuffled labels", null),
        numbers("p", frame["p_value"]),
    ]  # fmt: skip
    notes = [
        "Spearman's rank correlation of a prompt's score with an indicator; confidence interval "
        "from a bootstrap over blocks of regions, missing where all regions lie in one block. "
        "Shuffling assumes exchangeable regions, which neighbouring regions are not.",
        "Scores reflect the biases of the model's training data.",
    ]
    title = f"Zero-shot scores and indicators, {city.title}"
    return Table(slug(city.name, "zero-shot"), title, columns, notes=notes)


# ---- efficiency ---------------------------------------------------------------------------------


def efficiency_section(run: Path, output: Path, folder: str) -> Section | None:
    """Section on `evaluate.py efficiency` results; None without results.

    Args:
        run: Folder of efficiency.json.
        output: Report folder.
        folder: Folder of the figures, relative to `output`.
    """
    path = run / EFFICIENCY_FILE
    if not path.is_file():
        return None
    measured = json.loads(path.read_text(encoding="utf-8"))
    systems, where = pd.DataFrame(measured["systems"]), measured["machine"]
    title = "Size and speed of the encoders"
    machine = (
        f"{where['device']}, {where['cores']} cores, {where['threads']} threads, "
        f"{where['precision']}, torch {where['torch']}, {where['clock']}"
    )
    speeds = {
        f"batch of {batch[0]['regions']} region{'s' * (batch[0]['regions'] > 1)}": pd.DataFrame(
            batch
        )
        for batch in zip(*systems["speeds"], strict=True)
    }
    names = systems["system"] + " (" + systems["size"] + ")"
    panels = {
        "parameters": systems[list(SIZES)].set_axis(names),
        "images per second": pd.DataFrame(
            {name: one["images"] / one["seconds"] for name, one in speeds.items()}
        ).set_axis(names),
    }
    figure = f"{folder}/efficiency.png"
    draw_bars(output / figure, title, panels)
    return Section(
        title,
        [
            f"Measured on: {machine}. Load average at the end: {where['load']:.1f}; above the "
            "number of cores, other processes were running and wall-clock speeds are too low.",
            _efficiency_table(title, systems, speeds),
            Figure(figure, title, f"{title}, both axes logarithmic. {machine}."),
        ],
    )


def _efficiency_table(title: str, systems: pd.DataFrame, speeds: dict[str, pd.DataFrame]) -> Table:
    columns: list[Column] = [
        words("system", systems["system"]),
        words("size", systems["size"]),
        numbers("pixels", systems["image_size"], form=".0f"),
        *(numbers(kind, systems[kind], form=",.0f", group="parameters") for kind in SIZES),
    ]
    columns += [
        numbers(f"{kind}/s", one[kind] / one["seconds"], form=",.1f", group=batch)
        for batch, one in speeds.items()
        for kind in ("images", "regions")
    ]
    notes = [
        "Total: parameters used in training or stored, including UrbanLN's teacher. Trainable: "
        "parameters with a gradient. Inference: parameters used to encode a region. Speed: from "
        "decoded pixels to embeddings; batches of regions, each with its images of the system's "
        "views."
    ]
    return Table("efficiency", title, columns, notes=notes)


__all__ = [
    "TRANSFER_FOLDER",
    "efficiency_section",
    "matrix",
    "read_transfer",
    "retrieval_table",
    "transfer_section",
    "zero_shot_table",
]
