"""Recipes of the repository, and invalid recipes."""

from pathlib import Path

import pytest
import yaml

from dataset_builders.city.layout import city_boundary, city_regions
from dataset_builders.city.recipe import read_recipe
from dataset_builders.errors import DatasetError, SourceError
from dataset_builders.yaml_records import read_layered_yaml

CITIES = Path(__file__).parents[2] / "configs" / "cities"
SHIPPED = sorted(CITIES.glob("*.yaml"))
TILES = {"provider": "tiles", "name": "a", "url": "b/{x}/{y}/{z}", "zoom": 1}
MINIMAL = {"city": "somewhere", "boundary": {"bbox": [7.40, 43.73, 7.41, 43.74]}}


def recipe(tmp_path, **changes):
    path = tmp_path / "city.yaml"
    path.write_text(yaml.safe_dump(MINIMAL | changes))
    return read_recipe(path)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_recipes_are_valid(path):
    found = read_recipe(path)
    assert path.stem.startswith(found.city)
    assert found.satellite is None or found.satellite.attribution
    assert found.street_view
    assert {one.name for one in found.indicators} >= {"population"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"regions": {"scheme": "tiles"}}, "need zoom"),
        ({"boundary": {"place": "A", "file": "b"}}, "one of file, place and bbox"),
        ({"satellite": {"name": "x"}}, "needs a `provider`"),
        ({"regions": {"scheme": "h3", "resolution": 8}, "satellite": TILES}, "not squares"),
        ({"street_view": [{"provider": "google"}]}, "needs `roads`"),
        ({"indicators": {"name": "a", "reader": "points", "files": "a.csv"}}, "coord_system"),
        ({"indicators": {"name": "trees", "reader": "osm_pois", "files": "a.pbf"}},
         "`unit` and its `description`"),
        ({"indicators": {"name": "gdp", "reader": "raster", "files": "a", "product": "worldpopp"}},
         "Did you mean 'worldpop'"),
        ({"city": "New York"}, "a-z, 0-9 and _"),
        ({"network": {"contact": "城市"}}, "ASCII"),
        ({"network": {"limits": {"a.b": {"per_second": 0}}}}, "rate above 0"),
    ],
)  # fmt: skip
def test_rejects_invalid_recipes(tmp_path, changes, message):
    with pytest.raises((DatasetError, SourceError), match=message):
        recipe(tmp_path, **changes)


def test_base_recipes_are_not_read_from_city_recipes(tmp_path):
    (tmp_path / "under.yaml").write_text("shared: {a: 1, b: [2]}\nkept: x\n")
    over = tmp_path / "over.yaml"
    over.write_text("base: under.yaml\nshared: {b: [3]}\n")
    assert read_layered_yaml(over) == {"shared": {"a": 1, "b": [3]}, "kept": "x"}
    with pytest.raises(DatasetError, match="no field 'base'"):
        recipe(tmp_path, base="under.yaml")


def test_reports_all_mistakes_at_once(tmp_path):
    raster = {"kind": "sum", "cell_unit": "x", "nodata": "gapls"}
    with pytest.raises(DatasetError) as caught:
        recipe(
            tmp_path,
            regoins={},
            satellite={"provider": "tile"},
            street_view=[
                {"provider": "google", "size": 64},
                {"provider": "google", "size_px": 999},
            ],
            indicators=[{"name": "gdp", "reader": "raster", "files": "a.tif", "raster": raster}],
            splits={"seed": True},
            network={"limits": {"a.b": {"per_secnod": 3}}},
        )
    said = str(caught.value)
    assert said.startswith("9 mistakes in the recipe:")
    for line in (
        "no field 'regoins' in a recipe. Did you mean 'regions'?",
        "`satellite.provider` must not be 'tile'. Did you mean 'tiles'?",
        "no field 'street_view[0].size' in a recipe. Did you mean 'size_px'?",
        "street_view[1]: Google gives images up to 640 px, got 999.",
        "`indicators[0].raster.kind` must be one of 'count', 'density', 'intensity', got 'sum'.",
        "raster.nodata` must be a number or be one of 'tag', 'gapless', got 'gapls'.",
        "`indicators[0].raster` lacks unit",
        "`splits.seed` must be a whole number, got true.",
        "'network.limits.a.b.per_secnod' in a recipe. Did you mean 'per_second'?",
    ):
        assert line in said


def test_single_value_stands_for_a_list(tmp_path):
    found = recipe(
        tmp_path,
        roads={"classes": "primary"},
        street_view={"provider": "google", "headings": 90},
        indicators={"name": "poi", "reader": "osm_pois", "files": "a.osm.pbf"},
    )
    assert found.roads.classes == ("primary",)
    assert found.street_view[0].headings == (90.0,)
    assert found.indicators[0].files == ("a.osm.pbf",)


def test_beijing_has_the_tiles_of_earlier_work():
    recipe = read_recipe(CITIES / "beijing.yaml")
    regions = city_regions(recipe, city_boundary(recipe, CITIES))
    # UrbanCLIP has labels for 4,587 of these tiles, the paper uses 4,584
    assert len(regions) == 82 * 56
    assert (regions["tile_x"].min(), regions["tile_x"].max()) == (12614, 12695)
    assert (regions["tile_y"].min(), regions["tile_y"].max()) == (4690, 4745)


def test_rejects_files_that_are_no_recipes(tmp_path):
    with pytest.raises(DatasetError, match="cannot be read"):
        read_recipe(tmp_path / "none.yaml")
    path = tmp_path / "list.yaml"
    path.write_text("- a\n- b\n")
    with pytest.raises(DatasetError, match="must be a mapping"):
        read_recipe(path)


def test_limits_and_prices_do_not_change_the_fingerprint(tmp_path):
    plain = recipe(tmp_path).fingerprint()
    network = {"limits": {"a.b": {"per_second": 1}}}
    assert recipe(tmp_path, costs={"currency": "CHF"}, network=network).fingerprint() == plain
    assert recipe(tmp_path, splits={"seed": 1}).fingerprint() != plain
