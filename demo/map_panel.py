"""The map: its HTML, and what the server answers while someone moves about on it."""

import json
from collections.abc import Callable, Mapping
from functools import lru_cache, wraps
from typing import Any

from pipelines.evaluation.errors import InputError

from .choropleth import LAYERS, outline, paint
from .cities import VIEW_TITLES, Cities, ShownCity
from .markup import SYNTHETIC, options, text
from .region_card import region_card

Answer = dict[str, Any]
HINT = (
    '<p class="hint">Click a region, or focus the map and use the arrow keys: its pictures, '
    "captions, predictions and the regions that look most like it appear here.</p>"
)


class MapPanel:
    """Answers of the map, which the page's script asks for by name.

    Args:
        cities: all that can be shown; the first is shown first.
    """

    def __init__(self, cities: Cities):
        self.cities = cities
        self._outline = lru_cache(8)(lambda name: outline(self.cities[name]))
        self.functions = [answered(self.city), answered(self.layer), answered(self.region)]

    def html(self) -> str:
        """The whole panel, painted: it needs no answer to be seen."""
        city = next(iter(self.cities.values()))
        return (
            f'<div class="panel"><section class="map-side" aria-label="Map">{self._controls(city)}'
            f'<div class="stage">{self.drawing(city)}</div></section>'
            '<section class="card" aria-label="Region">'
            f"{HINT}</section></div>"
        )

    def drawing(self, city: ShownCity) -> str:
        """Outline, legend and note of a city's first layer."""
        view, indicator = next(iter(city.views)), city.targets[0].name
        painted = paint(city, view, indicator, "truth")
        ids = text(json.dumps(city.region_ids))
        svg = self._outline(city.name)
        for_script = text(json.dumps({"colours": painted.colours, "values": painted.values}))
        return (
            f'<div class="drawing" data-city="{text(city.name)}" data-ids="{ids}" '
            f'data-painted="{for_script}">{svg}</div><p class="spoken" role="status"></p>'
            f'<div class="legend">{painted.legend}</div><p class="note">{painted.note}</p>'
        )

    def city(self, asked: Mapping[str, Any]) -> Answer:
        """The drawing of another city, with its select boxes."""
        city = self._city(asked)
        return {"drawing": self.drawing(city), "controls": self._controls(city)}

    def layer(self, asked: Mapping[str, Any]) -> Answer:
        """Colours and words of a layer."""
        layer = str(asked.get("layer"))
        if layer not in LAYERS:
            raise InputError(f"A layer is one of {', '.join(LAYERS)}; got {layer!r}.")
        city = self._city(asked)
        return paint(city, str(asked.get("view")), str(asked.get("indicator")), layer).as_json()

    def region(self, asked: Mapping[str, Any]) -> Answer:
        """The card of a region."""
        city = self._city(asked)
        view = str(asked.get("view"))
        return {"card": region_card(self.cities, city, view, str(asked.get("region")))}

    def _city(self, asked: Mapping[str, Any]) -> ShownCity:
        name = str(asked.get("city"))
        if name not in self.cities:
            raise InputError(f"There is no city {name!r} here; there is {', '.join(self.cities)}.")
        return self.cities[name]

    def _controls(self, city: ShownCity) -> str:
        indicators = [target.name for target in city.targets]
        views = "".join(
            f'<option value="{text(name)}">{VIEW_TITLES[name]}</option>' for name in city.views
        )
        layers = "".join(
            f'<label><input type="radio" name="layer" value="{layer}"'
            f"{' checked' if layer == 'truth' else ''}><span>{title}</span></label>"
            for layer, title in LAYERS.items()
        )
        mark = f" {SYNTHETIC}" if city.synthetic else ""
        return (
            '<div class="controls">'
            f'<label class="field"><span>City{mark}</span><select name="city">'
            f"{options(self.cities, city.name)}</select></label>"
            '<label class="field"><span>Indicator</span><select name="indicator">'
            f"{options(indicators, indicators[0])}</select></label>"
            '<label class="field"><span>Vectors of</span><select name="view">'
            f"{views}</select></label>"
            f'<fieldset class="layers"><legend>Layer</legend>{layers}</fieldset></div>'
        )


def answered(method: Callable[[Mapping[str, Any]], Answer]) -> Callable[[Any], Answer]:
    """A server function: what a user can mend comes back as a sentence."""

    @wraps(method)
    def answer(asked: Any) -> Answer:
        try:
            return method(asked if isinstance(asked, Mapping) else {})
        except InputError as error:
            return {"error": str(error)}

    return answer


__all__ = ["MapPanel", "answered"]
