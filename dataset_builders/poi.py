"""Fourteen categories of points of interest, from OpenStreetMap tags.

The categories are those of UrbanVLP's labels (CityMind-Lab/UrbanVLP), the usual fourteen top-level
groups of Chinese POI tables.
"""

from collections.abc import Mapping
from typing import Any

CATEGORIES = (
    "dining_and_cuisine",
    "leisure_and_entertainment",
    "sports_and_fitness",
    "business_and_residential",
    "healthcare",
    "financial_institutions",
    "tourist_attractions",
    "lifestyle_services",
    "shopping_and_consumption",
    "automobile_related",
    "hotel_accommodation",
    "transport_facilities",
    "science_education_and_culture",
    "companies_and_enterprises",
)

# key, values and category, in order of precedence; "*" is any value
_OSM: tuple[tuple[str, str, str], ...] = (
    ("amenity", "restaurant cafe fast_food bar pub food_court ice_cream biergarten",
     "dining_and_cuisine"),
    ("amenity", "cinema theatre nightclub casino arts_centre community_centre social_centre "
     "gambling stripclub events_venue internet_cafe karaoke_box", "leisure_and_entertainment"),
    ("amenity", "hospital clinic doctors dentist pharmacy veterinary nursing_home",
     "healthcare"),
    ("amenity", "bank atm bureau_de_change money_transfer payment_terminal",
     "financial_institutions"),
    ("amenity", "school university college kindergarten library language_school music_school "
     "driving_school research_institute prep_school", "science_education_and_culture"),
    ("amenity", "fuel charging_station car_wash car_rental vehicle_inspection",
     "automobile_related"),
    ("amenity", "parking bus_station taxi ferry_terminal bicycle_parking bicycle_rental "
     "parking_entrance motorcycle_parking", "transport_facilities"),
    ("amenity", "post_office post_box laundry toilets childcare funeral_hall public_bath "
     "telephone parcel_locker recycling social_facility", "lifestyle_services"),
    ("amenity", "marketplace vending_machine", "shopping_and_consumption"),
    ("shop", "car car_repair car_parts tyres motorcycle", "automobile_related"),
    ("shop", "hairdresser beauty laundry dry_cleaning massage tattoo travel_agency copyshop "
     "funeral_directors", "lifestyle_services"),
    ("shop", "*", "shopping_and_consumption"),
    ("tourism", "hotel motel hostel guest_house apartment chalet camp_site",
     "hotel_accommodation"),
    ("tourism", "museum gallery", "science_education_and_culture"),
    ("tourism", "*", "tourist_attractions"),
    ("leisure", "fitness_centre sports_centre pitch stadium swimming_pool track sports_hall "
     "fitness_station golf_course ice_rink", "sports_and_fitness"),
    ("leisure", "park garden nature_reserve", "tourist_attractions"),
    ("leisure", "*", "leisure_and_entertainment"),
    ("historic", "*", "tourist_attractions"),
    ("healthcare", "*", "healthcare"),
    ("public_transport", "station platform", "transport_facilities"),
    ("railway", "station halt tram_stop subway_entrance", "transport_facilities"),
    ("highway", "bus_stop", "transport_facilities"),
    ("aeroway", "terminal aerodrome", "transport_facilities"),
    ("office", "estate_agent coworking", "business_and_residential"),
    ("office", "educational_institution research", "science_education_and_culture"),
    ("office", "insurance financial financial_advisor", "financial_institutions"),
    ("office", "*", "companies_and_enterprises"),
    ("craft", "*", "companies_and_enterprises"),
)  # fmt: skip
OSM_KEYS = tuple(dict.fromkeys(key for key, _, _ in _OSM))
_TAGS = {(key, value): name for key, values, name in reversed(_OSM) for value in values.split()}


def category_of_tags(tags: Mapping[str, Any]) -> str | None:
    """Category of an OpenStreetMap element by its tags; None if it is not a point of interest."""
    for key in OSM_KEYS:
        value = tags.get(key)
        if not isinstance(value, str) or value == "no":
            continue
        name = _TAGS.get((key, value)) or _TAGS.get((key, "*"))
        if name is not None:
            return name
    return None


__all__ = ["CATEGORIES", "OSM_KEYS", "category_of_tags"]
