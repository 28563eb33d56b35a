"""Recipes that ship, and recipes that are wrong."""

from pathlib import Path

import pytest
import yaml

from dataset_builders.city.layout import city_boundary, city_regions
from dataset_builders.city.recipe import read_recipe
from dataset_builders.errors import DatasetError, SourceError

CITIES = Path(__file__).parents[2] / "configs" / "cities"
SHIPPED = sorted(CITIES.glob("*.yaml"))
MINIMAL = {"city": "somewhere", "boundary": {"bbox": [7.40, 43.73, 7.41, 43.74]}}


def recipe(tmp_path, **changes):
    path = tmp_path / "city.yaml"
    path.write_text(yaml.safe_dump(MINIMAL | changes))
    return read_recipe(path)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_recipe_that_ships_is_right(path, tmp_path):
    (tmp_path / "photos").mkdir()
    found = read_recipe(path, tmp_path)
    assert found.city == path.stem
    satellite = found.open_satellite()
    assert satellite is not None
    assert satellite.attribution
    assert found.open_street_views()
    assert {one.name for one in found.indicators} >= {"population"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"regoins": {}}, "Did you mean 'regions'"),
        ({"regions": {"side": 500}}, "Did you mean 'side_m'"),
        ({"regions": {"scheme": "tiles"}}, "need zoom"),
        ({"regions": {"scheme": "circles"}}, "must be one of"),
        ({"boundary": {}}, "one of file, place and bbox"),
        ({"boundary": {"place": "A", "file": "b"}}, "one of file, place and bbox"),
        ({"satellite": {"provider": "tile"}}, "Did you mean 'tiles'"),
        ({"satellite": {"name": "x"}}, "needs a `provider`"),
        (
            {
                "regions": {"scheme": "h3", "resolution": 8},
                "satellite": {"provider": "tiles", "name": "a", "url": "b", "zoom": 1},
            },
            "hexagons are none",
        ),
        ({"street_view": [{"provider": "google"}]}, "needs `roads`"),
        ({"street_view": [{"provider": "googel"}], "roads": {}}, "Did you mean 'google'"),
        (
            {"street_view": [{"provider": "google", "size": 64}], "roads": {}},
            "Did you mean 'size_px'",
        ),
        (
            {"indicators": [{"name": "crime", "reader": "points", "files": "a.csv"}]},
            "coord_system",
        ),
        (
            {"indicators": [{"name": "trees", "reader": "points", "files": "a.csv"}]},
            "`unit` and its `description`",
        ),
        (
            {
                "indicators": [
                    {"name": "gdp", "reader": "raster", "files": "a.tif", "raster": {"kind": "sum"}}
                ]
            },
            "kind",
        ),
        (
            {
                "indicators": [
                    {"name": "gdp", "reader": "raster", "files": "a", "product": "worldpopp"}
                ]
            },
            "Did you mean 'worldpop'",
        ),
        ({"city": "New York"}, "a-z, 0-9 and _"),
        ({"network": {"limits": {"a.b": {"per_secnod": 3}}}}, "Did you mean 'per_second'"),
        ({"network": {"limits": {"a.b": {"per_second": 0}}}}, "rate above 0"),
    ],
)
def test_a_wrong_recipe_is_refused_with_a_hint(tmp_path, changes, message):
    with pytest.raises((DatasetError, SourceError), match=message):
        recipe(tmp_path, **changes)


def test_beijings_regions_are_the_tiles_of_the_line_of_work():
    recipe = read_recipe(CITIES / "beijing.yaml")
    regions = city_regions(recipe, city_boundary(recipe, CITIES))
    # UrbanCLIP labels 4,587 of these, the paper takes 4,584
    assert len(regions) == 82 * 56
    assert (regions["tile_x"].min(), regions["tile_x"].max()) == (12614, 12695)
    assert (regions["tile_y"].min(), regions["tile_y"].max()) == (4690, 4745)


def test_a_file_that_is_no_recipe_is_told(tmp_path):
    with pytest.raises(DatasetError, match="cannot be read"):
        read_recipe(tmp_path / "none.yaml")
    path = tmp_path / "list.yaml"
    path.write_text("- a\n- b\n")
    with pytest.raises(DatasetError, match="must be a mapping"):
        read_recipe(path)


def test_politeness_and_prices_do_not_change_a_dataset(tmp_path):
    plain = recipe(tmp_path)
    assert plain.fingerprint() == recipe(tmp_path, costs={"currency": "CHF"}).fingerprint()
    assert plain.fingerprint() != recipe(tmp_path, splits={"seed": 1}).fingerprint()
