import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dataset_builders.city.recipe import read_recipe as read_city_recipe
from dataset_builders.trust import check_recipe_file
from pipelines.captioning.recipe import read_recipe as read_captioning_recipe
from pipelines.evaluation.search.zero_shot import read_prompts

from .harness import altered, damaged, inputs, knock

ROOT = Path(__file__).resolve().parents[2]
CITY = {
    "city": "town",
    "boundary": {"bbox": [116.3, 39.8, 116.4, 39.9]},
    "regions": {"scheme": "squares", "side_m": 1000.0},
    "roads": {"spacing_m": 500.0, "classes": ["residential"]},
    "satellite": {
        "provider": "tiles",
        "name": "tiles",
        "url": "https://tiles.example/{z}/{x}/{y}.jpg?token={key}",
        "zoom": 16,
        "key_env": "TILES_KEY",
        "limit": {"per_second": 2.0, "at_once": 4},
    },
    "street_view": [{"provider": "kartaview", "per_place": 2}],
    "indicators": [
        {"reader": "raster", "name": "population", "product": "worldpop", "files": ["a.tif"]},
        {"reader": "points", "name": "crime", "files": "b.csv", "coord_system": "wgs84"},
    ],
    "network": {"limits": {"tiles.example": {"per_second": 1.0}}},
    "notes": ["one", "two"],
}
CAPTIONS = {
    "dataset_name": "folder",
    "output_dir": "out",
    "models": [{"name": "a", "preset": "qwen3-vl-8b"}, {"name": "b", "base_url": "http://x/v1"}],
    "generate": {"captions_per_model": 2, "temperature": [0.2, 0.7]},
    "filter": {"parser": "spacy", "detector": {"name": "owlv2", "options": {"x": 1}}},
    "consensus": {"weights": [5, 5, 2]},
    "prompts": {"describe": {"satellite": "Describe."}},
}
PROMPTS = yaml.safe_load((ROOT / "configs/zero_shot/prompts.yaml").read_text())
DOORS = {
    "recipe of a city": (CITY, read_city_recipe),
    "recipe of captions": (CAPTIONS, read_captioning_recipe),
    "recipe for the Hub": (CITY, check_recipe_file),
    "prompts": (PROMPTS, read_prompts),
}
TEXTS = {door: yaml.safe_dump(valid).encode() for door, (valid, _) in DOORS.items()}
LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 30)
)
HOSTILE = (
    LAUGHS,  # "billion laughs" with 10^30 values
    *("a: &a [*a]", "a: &a {b: *a}", "a: " + "[" * 5000, "- " * 5000, "a: 2024-13-45"),
    *("a: !!timestamp x", "a: !!bool maybe", "a: !!int x", "a: !!float {}", "a: 0x_"),
    *("a: !!python/object/apply:os.system [id]", "? [1, 2]\n: 3", "1: 2", "city: .nan"),
    "{dataset_name: a, output_dir: b, models: [{name: {}}]}",
    *("a: " + "9" * 5000, "\ud800"),
)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("recipe") / "recipe.yaml"


@pytest.mark.parametrize("door", DOORS)
def test_valid_and_hostile_recipes(door, file):
    read = DOORS[door][1]
    file.write_bytes(TEXTS[door])
    assert knock(door, lambda: read(file)) is not None
    for text in HOSTILE:
        file.write_bytes(encoded(text))
        knock(door, lambda: read(file))


@pytest.mark.parametrize("door", DOORS)
@inputs(20)
@given(data=st.data())
def test_altered_recipes(door, file, data):
    valid, read = DOORS[door]
    values = altered(valid).map(lambda value: json.dumps(value).encode())  # JSON is YAML
    hostile = st.sampled_from(HOSTILE).map(encoded)
    file.write_bytes(data.draw(values | damaged(TEXTS[door]) | hostile))
    knock(door, lambda: read(file))


def encoded(text: str) -> bytes:
    return text.encode(errors="surrogatepass")
