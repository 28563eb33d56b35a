"""Hosts and variables that a recipe may name, and keys in URLs."""

from pathlib import Path

import pytest

from dataset_builders.city.recipe import read_recipe
from dataset_builders.errors import DatasetError
from dataset_builders.sources.google import GoogleStreetView
from dataset_builders.sources.mapillary import Mapillary
from dataset_builders.sources.tiles import TileSource
from dataset_builders.trust import check_addresses, check_known, question_about, variables_of

SHIPPED = sorted((Path(__file__).parents[2] / "configs" / "cities").glob("*.yaml"))
TILES = "https://tiles.example.com/{z}/{x}/{y}.jpg"


def test_providers_and_shipped_recipes_are_known():
    for path in SHIPPED:
        sources = read_recipe(path).online_sources()
        check_known(sources)
        assert question_about(sources) is None, path
    check_known([GoogleStreetView(), Mapillary()])


@pytest.mark.parametrize(
    "url",
    [
        "http://maps.googleapis.com",
        "https://maps.googleapis.com:8443",
        "https://maps.googleapis.com@127.0.0.1",
        "https://me@maps.googleapis.com",
        "https://maps.googleapis.com.example.com",
        "https://maps.googleapis.com\\\\@example.com",
        "https://example.com/maps.googleapis.com",
        "https://example.com#https://maps.googleapis.com",
        "https:///maps.googleapis.com",
        "https://[maps.googleapis.com",
        "maps.googleapis.com",
        "",
        "https://graph.mapillary.com",  # host of another provider
        "https://example.com\x1b[2J",
    ],
)
def test_rejects_addresses_that_only_look_known(url):
    with pytest.raises(DatasetError, match="GOOGLE_MAPS_API_KEY") as refused:
        check_known([GoogleStreetView(base_url=url)])
    assert "\x1b" not in str(refused.value)  # nothing that a terminal would interpret


@pytest.mark.parametrize(
    "source",
    [
        Mapillary(graph_url="https://example.com"),
        Mapillary(tiles_url="https://example.com"),
        TileSource("a", "https://{key}.example.com/{z}/{x}/{y}", 1, key_env="AWS_SECRET"),
        TileSource("a", "https://data.geopf.fr/{z}/{x}/{y}", 1, key_env="AWS_SECRET\x1b[1m"),
    ],
)
def test_checks_every_address_of_a_source(source):
    with pytest.raises(DatasetError, match="of the downloaded dataset sends") as refused:
        check_known([source])
    assert "\x1b" not in str(refused.value)
    assert question_about([source]).endswith("Continue?")


@pytest.mark.parametrize(
    "url",
    [
        *(
            TILES + end
            for end in (
                *("?access_token=pk.S3CRET", "?Access-Token=S3CRET", "?key=S3CRET"),
                *("?style=a&apikey=S3CRET&z=1", "?subscription-key=S3CRET", "?tk=S3CRET"),
                *("?sv=2024-01-01&se=2025-01-01&sig=S3CRET%3D", "?X-Amz-Signature=S3CRET"),
                *("?AWSAccessKeyId=S3CRET", "?token=S3CRET{key}", "#token=S3CRET"),
                *(";token=S3CRET", "?layer=AbC1dEf2GhI3jKl4MnO5pQr6"),
            )
        ),
        "https://proxy.example.com/{z}/{x}/{y}?to=https%3A%2F%2Fa.example.com%3Fkey%3DS3CRET",
        "https://me:S3CRET@tiles.example.com/{z}/{x}/{y}.jpg",
        "https://S3CRET@tiles.example.com/{z}/{x}/{y}.jpg",
        # in the path, as for some map services
        "https://tiles.example.com/q7zk3mvw0pj5x9ra2d1c/wmts/{z}/{x}/{y}",
        "https://tiles.example.com/5f2b8c1e9a7d4036b1c2d3e4f5a60718/{z}/{x}/{y}",
    ],
)
def test_rejects_addresses_with_keys(url):
    for where in ("url", "overpass_url"):
        said = rf"`a\[0\]\.{where}` has an address with a key"
        with pytest.raises(DatasetError, match=said) as refused:
            check_addresses({"a": [{where: url}]})
        assert "S3CRET" not in str(refused.value)


def test_accepts_addresses_without_keys():
    tiles = "https://tiles.example.com"
    for url in (
        TILES,
        TILES + "?access_token={key}",
        f"{tiles}/{{key}}/{{z}}/{{x}}/{{y}}",
        "http://127.0.0.1:8000/tiles/{z}/{x}/{y}.jpg",
        f"{tiles}/@2x/{{z}}/{{x}}/{{y}}?format=image/png&tilesize=512&version=1.0.0",
        f"{tiles}/s2cloudless-2020_3857_512/default/GoogleMapsCompatible/{{z}}/{{y}}/{{x}}",
        # resource ids, as in OpenAerialMap
        f"{tiles}/59e62b9f3d6412ef7220a4d5/0/{{z}}/{{x}}/{{y}}.png",
        f"{tiles}/10edab38-1bdd-4c06-b83d-6e10ac532b7d/{{z}}/{{x}}/{{y}}.png",
    ):
        check_addresses({"satellite": {"url": url}})
    # prose may link to a commit
    commit = "https://example.com/repository/blob/5f2b8c1e9a7d4036b1c2d3e4f5a607185f2b8c1e/a.md"
    check_addresses({"notes": [f"From {commit}.", "mail me@example.com; a=b; key=value"]})
    with pytest.raises(DatasetError, match=r"notes\[0\]"):
        check_addresses({"notes": ["Made with https://example.com/wms?key=S3CRET."]})


@pytest.mark.parametrize("text", ["pk.eyJ1IjoiS3CRET", "q7zk3mvw0pj5x9ra2d1c", "my key", ""])
def test_rejects_keys_in_place_of_variable_names(text):
    with pytest.raises(DatasetError, match="name of an environment variable") as refused:
        check_addresses({"satellite": {"key_env": text}})
    assert not text or text not in str(refused.value)


def test_variables_are_those_of_the_recipe_and_of_known_providers():
    found = variables_of({"satellite": {"key_env": "MY_KEY"}, "street_view": [{"key_env": "B"}]})
    assert {"MY_KEY", "B", "GOOGLE_MAPS_API_KEY", "MAPILLARY_ACCESS_TOKEN"} <= found
