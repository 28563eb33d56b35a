"""The page in a real browser, with HTML in names and mathtext in units."""

import geopandas as gpd

from tests.pipelines.prediction.test_predict import run

NAME, UNIT = "<b>rent</b>", "$/m^2, 100% of $ <script>alert(1)</script>"


def test_page_shows_verdict_and_maps_and_loads_nothing(town, start_browser, tmp_path):
    tracts = gpd.GeoDataFrame(town.frame).rename(columns={"height": NAME})
    run(town, regions=tracts, indicators={NAME: UNIT}, output_dir=tmp_path)
    browser = start_browser()
    browser.get((tmp_path / "predictions.html").as_uri())
    assert f"{NAME} ({UNIT})" in browser.find_element("tag name", "h2").text
    assert "better than location alone" in browser.find_element("class name", "verdict").text
    widths = browser.execute_script("return [...document.images].map(image => image.naturalWidth)")
    maps, reach = widths
    assert maps > 1000
    assert reach > 500
    fits = "return document.documentElement.scrollWidth <= document.documentElement.clientWidth"
    assert browser.execute_script(fits)
    assert not browser.get_log("browser")
    asked = "return performance.getEntriesByType('resource').map(one => one.name)"
    assert all(name.startswith("data:") for name in browser.execute_script(asked))
