"""Map tab: its HTML and the server functions that its script calls."""

import base64
import json
import tempfile
from collections.abc import Callable, Mapping
from functools import lru_cache, wraps
from pathlib import Path
from typing import Any

from pipelines.evaluation.errors import InputError
from pipelines.prediction.geopackage import write_geopackage

from .choropleth import LAYERS, outline, paint
from .cities import VIEW_TITLES, Cities, ShownCity, find
from .page import render
from .region_card import region_card

Answer = dict[str, Any]


class MapPanel:
    """HTML and server functions of the map.

    Args:
        cities: Cities to choose from; the first is shown first.
    """

    def __init__(self, cities: Cities):
        self.cities = cities
        self._outline = lru_cache(8)(lambda name: outline(self.cities[name]))
        asked = (self.city, self.layer, self.region, self.geopackage)
        self.functions = [_answered(method) for method in asked]

    def html(self) -> str:
        """Complete panel with the map, its first layer and the card of a region."""
        city = next(iter(self.cities.values()))
        view = next(iter(city.views))
        return render(
            "panel",
            controls=self._controls(city),
            drawing=self.drawing(city),
            region=city.opening,
            card=region_card(self.cities, city, view, city.opening),
        )

    def drawing(self, city: ShownCity) -> str:
        """Map, legend and note of a city's first layer."""
        painted = paint(city, next(iter(city.views)), next(iter(city.indicators)), "measured")
        return render(
            "drawing",
            city=city,
            ids=json.dumps(city.region_ids),
            painted=painted,
            for_script=json.dumps({"colours": painted.colours, "values": painted.values}),
            svg=self._outline(city.name),
        )

    def city(self, asked: Mapping[str, Any]) -> Answer:
        """Map and select boxes of another city."""
        city = self._city(asked)
        return {"drawing": self.drawing(city), "controls": self._controls(city)}

    def layer(self, asked: Mapping[str, Any]) -> Answer:
        """Colours, values, legend and note of a layer."""
        layer = str(asked.get("layer"))
        if layer not in LAYERS:
            raise InputError(f"The layer must be one of {', '.join(LAYERS)}, got {layer!r}.")
        city = self._city(asked)
        return vars(paint(city, str(asked.get("view")), str(asked.get("indicator")), layer))

    def region(self, asked: Mapping[str, Any]) -> Answer:
        """Card of a region."""
        city = self._city(asked)
        view = str(asked.get("view"))
        return {"card": region_card(self.cities, city, view, str(asked.get("region")))}

    def geopackage(self, asked: Mapping[str, Any]) -> Answer:
        """Predictions of a city as a base64-encoded GeoPackage, with its file name."""
        city = self._city(asked)
        view = find(city.views, str(asked.get("view")), "view")
        found = view.predictions
        if found is None:
            raise InputError(f"{city.name} has no predictions to download: too few labels.")
        units = {verdict.indicator: verdict.unit for verdict in found.verdicts}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "predictions.gpkg"
            write_geopackage(found.table, path, units)
            content = base64.b64encode(path.read_bytes()).decode()
        mark = "-synthetic" if city.synthetic else ""
        return {"name": f"{city.name}-{view.name}{mark}.gpkg", "content": content}

    def _city(self, asked: Mapping[str, Any]) -> ShownCity:
        return find(self.cities, str(asked.get("city")), "city")

    def _controls(self, city: ShownCity) -> str:
        return render("controls", city=city, cities=self.cities, views=VIEW_TITLES, layers=LAYERS)


def _answered(method: Callable[[Mapping[str, Any]], Answer]) -> Callable[[Any], Answer]:
    """Wrap a server function to return user errors as messages."""

    @wraps(method)
    def answer(asked: Any) -> Answer:
        try:
            return method(asked if isinstance(asked, Mapping) else {})
        except InputError as error:
            return {"error": str(error)}

    return answer


__all__ = ["MapPanel"]
