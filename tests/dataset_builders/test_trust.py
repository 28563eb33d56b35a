"""Hosts and variables that a recipe may name, and keys in URLs."""

from pathlib import Path

import pytest

from dataset_builders.city.recipe import read_recipe
from dataset_builders.errors import DatasetError
from dataset_builders.sources.google import GoogleStreetView
from dataset_builders.sources.mapillary import Mapillary
from dataset_builders.sources.stac import StacSource
from dataset_builders.sources.tiles import TileSource
from dataset_builders.trust import check_addresses, check_known, question_about, variables_of

SHIPPED = sorted((Path(__file__).parents[2] / "configs" / "cities").glob("*.yaml"))
TILES = "https://tiles.example.com/{z}/{x}/{y}.jpg"


def stac(**values):
    window, url = "2024-05-01/2024-09-30", "https://earth-search.aws.element84.com/v1"
    return StacSource(
        collection="a",
        datetime=window,
        **{"name": "s2", "url": url, "stretch": (0.0, 1.0)} | values,
    )


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_what_a_recipe_that_ships_asks_for_is_known(path):
    sources = read_recipe(path).online_sources()
    check_known(sources)
    assert question_about(sources) is None


def test_every_provider_is_known_by_its_own_host():
    check_known([GoogleStreetView(), Mapillary(), stac()])


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
        "https://",
        "",
        # host of another provider
        "https://graph.mapillary.com",
    ],
)
def test_an_address_that_only_looks_known_is_not(url):
    with pytest.raises(DatasetError, match="GOOGLE_MAPS_API_KEY"):
        check_known([GoogleStreetView(base_url=url)])


@pytest.mark.parametrize(
    "source",
    [
        Mapillary(graph_url="https://example.com"),
        Mapillary(tiles_url="https://example.com"),
        stac(url="https://example.com/stac"),
        TileSource(
            "a", "https://{key}.example.com/{z}/{x}/{y}", 1, key_env="AWS_SECRET_ACCESS_KEY"
        ),
        TileSource("a", "https://data.geopf.fr/{z}/{x}/{y}", 1, key_env="AWS_SECRET_ACCESS_KEY"),
    ],
)
def test_every_address_of_a_source_is_judged(source):
    with pytest.raises(DatasetError, match="of the downloaded dataset sends"):
        check_known([source])
    assert question_about([source]).endswith("Continue?")


def test_what_a_stranger_wrote_cannot_draw_on_the_terminal():
    with pytest.raises(DatasetError) as refused:
        check_known([GoogleStreetView(base_url="https://example.com\x1b[2J", key_env="A\x1b[1m")])
    assert "\x1b" not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        TILES + "?access_token=pk.S3CRET",
        TILES + "?Access-Token=S3CRET",
        TILES + "?key=S3CRET",
        TILES + "?style=a&apikey=S3CRET&z=1",
        TILES + "?api_key=S3CRET",
        TILES + "?subscription-key=S3CRET",
        TILES + "?sv=2024-01-01&se=2025-01-01&sig=S3CRET%3D",
        TILES + "?X-Amz-Signature=S3CRET",
        TILES + "?AWSAccessKeyId=S3CRET",
        TILES + "?tk=S3CRET",
        TILES + "?token=S3CRET{key}",
        TILES + "#token=S3CRET",
        TILES + ";token=S3CRET",
        "https://proxy.example.com/{z}/{x}/{y}?to=https%3A%2F%2Fa.example.com%3Fkey%3DS3CRET",
        "https://me:S3CRET@tiles.example.com/{z}/{x}/{y}.jpg",
        "https://S3CRET@tiles.example.com/{z}/{x}/{y}.jpg",
        # in the path, as for some map services
        "https://tiles.example.com/q7zk3mvw0pj5x9ra2d1c/wmts/{z}/{x}/{y}",
        "https://tiles.example.com/5f2b8c1e9a7d4036b1c2d3e4f5a60718/{z}/{x}/{y}",
        TILES + "?layer=AbC1dEf2GhI3jKl4MnO5pQr6",
    ],
)
@pytest.mark.parametrize("where", ["url", "overpass_url"])
def test_an_address_with_a_key_in_it_is_refused(url, where):
    with pytest.raises(
        DatasetError, match=rf"`a\[0\]\.{where}` has an address with a key"
    ) as refused:
        check_addresses({"a": [{where: url}]})
    assert "S3CRET" not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        TILES,
        TILES + "?access_token={key}",
        "https://tiles.example.com/{key}/{z}/{x}/{y}",
        "http://127.0.0.1:8000/tiles/{z}/{x}/{y}.jpg",
        "https://tiles.example.com/@2x/{z}/{x}/{y}?format=image/png&tilesize=512&version=1.0.0",
        "https://tiles.example.com/s2cloudless-2020_3857_512/default/GoogleMapsCompatible/{z}/{y}/{x}",
        # resource ids, as in OpenAerialMap
        "https://tiles.example.com/59e62b9f3d6412ef7220a4d5/0/{z}/{x}/{y}.png",
        "https://tiles.example.com/10edab38-1bdd-4c06-b83d-6e10ac532b7d/{z}/{x}/{y}.png",
    ],
)
def test_an_address_without_a_key_is_taken(url):
    check_addresses({"satellite": {"url": url}})


def test_prose_may_link_to_anything_but_a_key():
    commit = "https://example.com/repository/blob/5f2b8c1e9a7d4036b1c2d3e4f5a607185f2b8c1e/a.md"
    check_addresses({"notes": [f"From {commit}.", "mail me@example.com; a=b; key=value"]})
    with pytest.raises(DatasetError, match=r"notes\[0\]"):
        check_addresses({"notes": ["Made with https://example.com/wms?key=S3CRET."]})


@pytest.mark.parametrize("text", ["pk.eyJ1IjoiS3CRET", "q7zk3mvw0pj5x9ra2d1c", "my key", ""])
def test_a_key_in_place_of_its_variables_name_is_refused(text):
    with pytest.raises(DatasetError, match="name of an environment variable") as refused:
        check_addresses({"satellite": {"key_env": text}})
    assert not text or text not in str(refused.value)


def test_the_variables_of_a_recipe_are_those_it_names_and_the_known_ones():
    found = variables_of({"satellite": {"key_env": "MY_KEY"}, "street_view": [{"key_env": "B"}]})
    assert {"MY_KEY", "B", "GOOGLE_MAPS_API_KEY", "MAPILLARY_ACCESS_TOKEN"} <= found
