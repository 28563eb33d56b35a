"""The indicators of a city, read as its recipe says."""

from pathlib import Path

import geopandas as gpd

from ..errors import DatasetError, SourceError
from .readers import IndicatorSettings, Reading
from .recipe import CityRecipe


def read_targets(
    recipe: CityRecipe, regions: gpd.GeoDataFrame, *, check_only: bool = False
) -> list[Reading]:
    """Read every indicator of a recipe.

    Args:
        recipe: Of the city.
        regions: Polygons with `region_id`, EPSG:4326.
        check_only: Read no more regions than it takes to know that the files can be read.

    Raises:
        DatasetError: A missing file, an unknown raster, a table without its columns, or points that
            lie elsewhere. The message lists what is wrong with any indicator.
    """
    found, wrong = [], []
    for one in recipe.indicators:
        some = one.sample(regions) if check_only else regions
        try:
            found.append(one.read(indicator_files(recipe, one), some, recipe.path))
        except (DatasetError, SourceError) as error:
            wrong.append(str(error))
    if wrong:
        raise DatasetError("\n  ".join(wrong))
    return found


def indicator_files(recipe: CityRecipe, settings: IndicatorSettings) -> list[Path]:
    """The files of an indicator, patterns expanded, each once, sorted.

    Raises:
        DatasetError: A file is missing, or no file matches a pattern.
    """
    found: set[Path] = set()
    for name in settings.files:
        path = recipe.path(name)
        is_pattern = any(sign in path.name for sign in "*?[")
        matches = list(path.parent.glob(path.name)) if is_pattern else [path]
        matches = [match for match in matches if match.is_file()]
        if not matches:
            raise DatasetError(
                f"There is no file {path} for the indicator {settings.name!r}. Paths of a recipe "
                "start from its `data_dir` (--data_dir)."
            )
        found.update(matches)
    return sorted(found)


__all__ = ["indicator_files", "read_targets"]
