"""Sections on transfer, retrieval, zero-shot scores and efficiency."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from ..probe.results import CITY, CITY_ENCODER, EFFICIENCY_FILE, JOINT, TRANSFER_FILE
from ..probe.systems import NO_VIEW
from .figures import FIGURES_FOLDER, draw_matrices
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
# of `evaluate.py benchmark` and `transfer`, relative to the parent of the results folder
TRANSFER_FOLDERS = ("transfer/results", "transfer")
MATRIX = ["system", "view", "probe"]
DIRECTIONS = {
    "image_to_text": "image → text",
    "text_to_image": "text → image",
    "text_to_region": "text → region",
}
SIZES = ("total", "trainable", "inference")


# ---- transfer between cities --------------------------------------------------------------------


def matrix(part: pd.DataFrame) -> pd.DataFrame:
    """Mean R2 over indicators by source and target; joint sources come last."""
    wide = part.pivot_table(index="source", columns="target", values="r2", aggfunc="mean")
    return wide.loc[sorted(wide.index, key=lambda name: (name.count(JOINT), name))]


def transfer_section(output: Path) -> Section | None:
    """Section with tables and heat maps of the transfer; None without results."""
    paths = [output.parent / folder / TRANSFER_FILE for folder in TRANSFER_FOLDERS]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        return None
    lines = pd.read_csv(path, keep_default_na=False, na_values=[""])
    lines = lines.rename(columns={"system": "label"})
    lines["system"] = lines["group"].fillna(lines["label"])
    by = ["protocol", "source", "target", *MATRIX, "indicator", "synthetic"]
    cells = lines.groupby(by, sort=False)
    results = cells.agg(r2=("r2", "mean"), trainings=("label", "nunique")).reset_index()
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
            table, figures = _transfer_table(own, protocol, mark), _heat_maps(own, mark, output)
            blocks.append(Section(question + mark, [table, *figures]))
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


def _heat_maps(own: pd.DataFrame, mark: str, output: Path) -> Iterator[Figure]:
    """Heat map per system, with one panel per view."""
    seen = own[own["view"] != NO_VIEW]
    first = min(seen["probe"], key=lambda probe: probe != "mlp")
    protocol = str(own["protocol"].iloc[0])
    for system, part in seen[seen["probe"] == first].groupby("system"):
        title = (
            f"{TRANSFERS[protocol].split(' (')[0]}{mark}: {system}, {PROBE_NAMES[first]}, mean R² "
            "over indicators"
        )
        panels = {
            VIEW_NAMES[view]: matrix(part[part["view"] == view])
            for view in VIEW_ORDER
            if view in set(part["view"])
        }
        rows = list(dict.fromkeys(name for one in panels.values() for name in one.index))
        columns = sorted({name for one in panels.values() for name in one.columns})
        shown = {
            name: one.reindex(index=rows, columns=columns).rename(index=_city, columns=_city)
            for name, one in panels.items()
        }
        path = f"{FIGURES_FOLDER}/{slug('transfer', protocol, str(system))}.png"
        draw_matrices(output / path, title, shown)
        caption = f"{title}. White: R² = 0, the mean label of the target city. Grey: not evaluated."
        yield Figure(path, title, caption)


def _city(name: str) -> str:
    return " + ".join(city_title(part, synthetic=False) for part in name.split(JOINT))


# ---- retrieval and zero-shot scores -------------------------------------------------------------


def _read_all(city: CityResults, pattern: str) -> list[dict[str, Any]]:
    """JSON files of a city in the results folder and its documented sibling folders."""
    parent = city.output.parent
    folders = [city.output, *(parent / name for name in ("retrieval", "zero_shot", "embeddings"))]
    found = [path for one in folders for path in sorted((one / city.name).glob(pattern))]
    return [json.loads(path.read_text(encoding="utf-8")) for path in found]


def retrieval_table(city: CityResults) -> Table | None:
    """Table of `evaluate.py retrieve` results, with chance levels; None without results."""
    found = _read_all(city, "retrieval-*.json")
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


def zero_shot_table(city: CityResults) -> Table | None:
    """Table of correlations between zero-shot scores and indicators; None without results."""
    found = _read_all(city, "zero-shot-*.json")
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


def efficiency_section(output: Path) -> Section | None:
    """Section on `evaluate.py efficiency` results next to the folder; None without results."""
    path = output.parent / EFFICIENCY_FILE
    if not path.is_file():
        return None
    measured = json.loads(path.read_text(encoding="utf-8"))
    systems, where = pd.DataFrame(measured["systems"]), measured["machine"]
    columns: list[Column] = [
        words("system", systems["system"]),
        words("size", systems["size"]),
        numbers("pixels", systems["image_size"], form=".0f"),
        *(numbers(kind, systems[kind], form=",.0f", group="parameters") for kind in SIZES),
    ]
    for speeds in zip(*systems["speeds"], strict=True):
        batch = pd.DataFrame(speeds)
        regions = speeds[0]["regions"]
        group = f"batch of {regions} region{'s' * (regions > 1)}"
        columns += [
            numbers(f"{kind}/s", batch[kind] / batch["seconds"], form=",.1f", group=group)
            for kind in ("images", "regions")
        ]
    title = "Size and speed of the encoders"
    notes = [
        "Total: parameters used in training or stored, including UrbanLN's teacher. Trainable: "
        "parameters with a gradient. Inference: parameters used to encode a region. Speed: from "
        "decoded pixels to embeddings; batches of regions, each with its images of the system's "
        "views."
    ]
    machine = (
        f"Measured on: {where['device']}, {where['cores']} cores, {where['threads']} threads, "
        f"{where['precision']}, torch {where['torch']}, {where['clock']}. Load average at the end: "
        f"{where['load']:.1f}; above the number of cores, other processes were running and "
        "wall-clock speeds are too low."
    )
    return Section(title, [machine, Table("efficiency", title, columns, notes=notes)])


__all__ = [
    "efficiency_section",
    "matrix",
    "retrieval_table",
    "transfer_section",
    "zero_shot_table",
]
