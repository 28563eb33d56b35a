"""Status of a build: download counts per source, failures and their reasons."""

from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from ..download import Store
from ..errors import DatasetError
from ..files import read_json
from ..schema import config_name
from ..storage import DATA_FOLDER, count_rows, list_tables
from .planning import PLAN_FILE
from .recipe import CityRecipe
from .workspace import Workspace

REASONS_SHOWN = 5


def describe(recipe: CityRecipe, output_dir: str | Path) -> str:
    """Status of a build as text.

    Raises:
        DatasetError: The folder holds no build.
    """
    space = Workspace(output_dir)
    if not space.cache.is_dir():
        raise DatasetError(
            f"There is no build in {space.root}. Run `python -m dataset_builders build` first."
        )
    planned = _planned(space.plan / PLAN_FILE)
    lines = [f"{recipe.city} in {space.root}"]
    names = [one.name for one in (recipe.satellite, *recipe.street_view) if one is not None]
    with closing(space.open_store()) as store:
        for name in names:
            lines += _lines(store, name, planned.get(name))
        failed = sum(store.counts(f"{name}/").get("failed", 0) for name in names)
    if (space.dataset / DATA_FOLDER).is_dir() and any((space.dataset / DATA_FOLDER).iterdir()):
        lines += [
            f"  {config_name(*table)}: {count_rows(space.dataset, *table):,} rows"
            for table in list_tables(space.dataset)
        ]
    return "\n".join(lines + ["Rerun the build to retry failed items."] * bool(failed))


def _lines(store: Store, name: str, planned: int | None) -> Iterator[str]:
    """Number of items per status, and the most frequent reasons of failures."""
    states = ", ".join(f"{count:,} {state}" for state, count in store.counts(f"{name}/").items())
    of = "" if planned is None else f" (planned: {planned:,} tiles or places)"
    yield f"  {name}: {states or 'nothing requested yet'}{of}"
    reasons = Counter(f"{one.status}: {one.detail}" for one in store.failures(f"{name}/"))
    for reason, count in reasons.most_common(REASONS_SHOWN):
        yield f"    {count:,} {reason}"
    if len(reasons) > REASONS_SHOWN:
        yield f"    and {len(reasons) - REASONS_SHOWN} further reasons"


def _planned(path: Path) -> dict[str, int]:
    found = read_json(path) or {"sources": []}
    return {one["name"]: one["items"] for one in found["sources"]}


__all__ = ["describe"]
