"""Fourteen categories of points of interest, and what other maps call them.

The categories are those of UrbanVLP's labels (CityMind-Lab/UrbanVLP), which are the fourteen top
groups that Chinese POI tables are commonly sold by.
"""

import re
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

# the tables' own names first, then AMap's and Baidu's top levels
_CHINESE = {
    "dining_and_cuisine": "餐饮美食 餐饮服务 餐饮 美食",
    "leisure_and_entertainment": "休闲娱乐",
    "sports_and_fitness": "运动健身 体育休闲服务",
    "business_and_residential": "商务住宅 房地产",
    "healthcare": "医疗保健 医疗保健服务 医疗",
    "financial_institutions": "金融机构 金融保险服务 金融",
    "tourist_attractions": "旅游景点 风景名胜",
    "lifestyle_services": "生活服务 丽人",
    "shopping_and_consumption": "购物消费 购物服务 购物",
    "automobile_related": "汽车相关 汽车服务 汽车销售 汽车维修 摩托车服务",
    "hotel_accommodation": "酒店住宿 住宿服务 酒店",
    "transport_facilities": "交通设施 交通设施服务",
    "science_education_and_culture": "科教文化 科教文化服务 教育培训 文化传媒",
    "companies_and_enterprises": "公司企业",
}
_LABELS = {word: name for name, words in _CHINESE.items() for word in words.split()}

# (key, values) in the order they are tried; "*" is any value
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


def category_of_label(label: Any) -> str | None:
    """The category of a label: one of ours, UrbanVLP's, or AMap's and Baidu's top level.

    Args:
        label: "Dining and Cuisine", "餐饮服务", or a path of levels of which the first counts
            ("餐饮服务;中餐厅;火锅店").

    Returns:
        One of [`CATEGORIES`], or None.
    """
    if not isinstance(label, str):
        return None
    first = re.split(r"[;|/>:；]", label.strip())[0].strip()
    if first in _LABELS:
        return _LABELS[first]
    slug = re.sub(r"[^a-z]+", "_", first.lower()).strip("_")
    return slug if slug in CATEGORIES else None


def category_of_tags(tags: Mapping[str, Any]) -> str | None:
    """The category of an OpenStreetMap element, or None if it is no point of interest.

    Args:
        tags: Tags of the element.
    """
    for key in OSM_KEYS:
        value = tags.get(key)
        if not isinstance(value, str) or value == "no":
            continue
        name = _TAGS.get((key, value)) or _TAGS.get((key, "*"))
        if name is not None:
            return name
    return None


__all__ = ["CATEGORIES", "OSM_KEYS", "category_of_label", "category_of_tags"]
