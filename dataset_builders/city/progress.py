"""How far a build is: what was fetched of each source, and what failed why."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from ..errors import DatasetError
from ..schema import config_name
from ..storage import DATA_FOLDER, count_rows, list_tables
from .planning import PLAN_FILE
from .recipe import CityRecipe
from .workspace import Workspace

FAILURES_SHOWN = 5


@dataclass(frozen=True)
class Progress:
    """How far a source is.

    Attributes:
        name: of the source.
        counts: items in each state; a place takes more than one item where metadata come first.
        reasons: of what is neither "ok" nor "missing", the most frequent first.
    """

    name: str
    counts: dict[str, int]
    reasons: dict[str, int]


def progress(recipe: CityRecipe, output_dir: str | Path) -> list[Progress]:
    """How far each source is.

    Raises:
        DatasetError: nothing was built there yet.
    """
    space = Workspace(Path(output_dir))
    if not space.cache.is_dir():
        raise DatasetError(
            f"There is no build in {space.root}: `python -m dataset_builders build` makes one."
        )
    names = [one.name for one in recipe.open_street_views()]
    if (satellite := recipe.open_satellite()) is not None:
        names.insert(0, satellite.name)
    store = space.open_store()
    try:
        found = []
        for name in names:
            failures = Counter(
                f"{one.status}: {one.detail}" for one in store.failures(f"{name}/")
            ).most_common()
            found.append(Progress(name, store.counts(f"{name}/"), dict(failures)))
        return found
    finally:
        store.close()


def describe(recipe: CityRecipe, output_dir: str | Path) -> str:
    """The state of a build, to be read."""
    space = Workspace(Path(output_dir))
    found = progress(recipe, output_dir)
    planned = _planned(space.plan / PLAN_FILE)
    lines = [f"{recipe.city} in {space.root}"]
    for one in found:
        states = ", ".join(f"{count:,} {state}" for state, count in one.counts.items())
        of = f" (planned: {planned[one.name]:,} tiles or places)" if one.name in planned else ""
        lines.append(f"  {one.name}: {states or 'nothing asked for yet'}{of}")
        for reason, count in list(one.reasons.items())[:FAILURES_SHOWN]:
            lines.append(f"    {count:,} {reason}")
        if len(one.reasons) > FAILURES_SHOWN:
            lines.append(f"    and {len(one.reasons) - FAILURES_SHOWN} further reasons")
    if (space.dataset / DATA_FOLDER).is_dir() and any((space.dataset / DATA_FOLDER).iterdir()):
        lines += [
            f"  {config_name(*table)}: {count_rows(space.dataset, *table):,} rows"
            for table in list_tables(space.dataset)
        ]
    if any(reason.startswith("failed") for one in found for reason in one.reasons):
        lines.append("Build again to ask again for what failed.")
    return "\n".join(lines)


def _planned(path: Path) -> dict[str, int]:
    if not path.exists():
        return {}
    return {one["name"]: one["items"] for one in json.loads(path.read_text())["sources"]}


__all__ = ["Progress", "describe", "progress"]
