"""Simulated captions: a reference with all facts, and five captioners with known errors.

Each simulated captioner represents a kind of multimodal model, with its own vocabulary and style
and known rates of omission and hallucination. Hallucination rates lie in the range of CHAIR scores
of open models on long captions (Rohrbach et al. 2018, arXiv 1809.02156): 6 to 15 % of the objects
named by LLaVA-1.5 are absent (e.g. Leng et al. 2023, arXiv 2311.16922). Omission rates are
assumptions: detailed captions of open models mention half to three quarters of the annotated
objects. No rate was fitted to results of this project.

The format follows published captions for this task (samples of UrbanVLP and UrbanCLIP, Beijing):
about 30 tokens of generic introduction, then one sentence per fact, the largest objects first, 100
to 200 words in total. Truncation to 77 tokens therefore keeps the largest objects and loses 61 % of
the facts of a street view and 55 % of those of a tile
(`tests/dataset_builders/test_synthetic_world.py` requires 50 to 70 %). These parameters were fixed
before any comparison of systems.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .roadside import HOUSES
from .satellite import Tile
from .street_view import StreetView
from .world import KINDS

REFERENCE = "synthetic-reference"


@dataclass(frozen=True)
class Fact:
    """Fact about an image, true or hallucinated."""

    key: str  # subject ("tree", "river", "storeys"...)
    value: str  # statement about the subject; different values for the same key contradict
    # share of the image covered by the subject, 0 to 1; large objects are seldom omitted
    weight: float = 0.5


@dataclass(frozen=True)
class Caption:
    """Caption of 100 to 200 words, with its hallucinated and omitted facts."""

    model: str
    text: str
    hallucinated: tuple[Fact, ...] = ()
    omitted: tuple[Fact, ...] = ()


@dataclass(frozen=True)
class Captioner:
    """Simulated captioning model."""

    name: str  # name in the column `model`
    omission: float  # probability of omitting a fact of weight 0.5; see `omission_chance`
    hallucination: float  # expected share of hallucinated facts among the stated facts
    words: Mapping[str, str]  # synonyms that replace the default words
    opening: str  # text before the first fact
    joints: tuple[str, ...]  # beginnings of the sentences
    closing: str  # text after the last fact


OPENINGS = {
    "street_view": "This picture was taken from the middle of a public road, at the height of a "
    "driver's eye, and looks straight along the way ahead.",
    "satellite": "This picture was taken from high above, looking straight down, with north at its "
    "upper edge, and covers a square of land.",
}
CAPTIONERS = (
    Captioner(
        "synthetic-amber", 0.40, 0.15,
        {"building": "edifice", "trees": "greenery", "cars": "vehicles", "road": "roadway"},
        "The image depicts a scene of daily life in an urban or suburban setting. The "
        "atmosphere appears ordinary, suggesting a place that is lived in and used every day.",
        ("The scene includes", "It also features", "One can notice", "In addition one sees"),
        "Overall, the image gives a sense of the character of the neighbourhood.",
    ),
    Captioner(
        "synthetic-basalt", 0.30, 0.10,
        {"building": "structure", "houses": "homes", "cars": "automobiles"},
        "In this detailed view the composition leads the eye across the frame, and the light "
        "is even enough to make out how the place is laid out.",
        ("We see", "The view shows", "Further on we find", "We can make out"),
        "Together these elements form a coherent picture of the area.",
    ),
    Captioner(
        "synthetic-cedar", 0.25, 0.07,
        {"street": "road", "many": "numerous", "wide-meshed": "coarse"},
        "Layout and function: the picture documents a part of a city, and its elements are "
        "listed below in the order in which they take up space.",
        ("Observed:", "Present:", "Recorded:", "Identified:"),
        "No further elements could be identified with confidence.",
    ),
    Captioner(
        "synthetic-delta", 0.45, 0.12,
        {"building": "block", "trees": "planting", "pavement": "sidewalk"},
        "A photo. It shows a place in a city on an ordinary day. To describe it one has to say "
        "what is there, one thing after another.",
        ("It has", "You can see", "Also", "And"),
        "That is what the photo shows.",
    ),
    Captioner(
        "synthetic-ember", 0.22, 0.06,
        {"houses": "dwellings", "wide": "broad"},
        "The photograph presents an urban landscape whose mood is calm and matter-of-fact, and "
        "whose structure becomes legible step by step.",
        ("It shows", "The frame contains", "Attention is drawn to", "Beyond that one finds"),
        "These traits together tell much about how the place is used.",
    ),
)  # fmt: skip

SIDE_PHRASES = {
    "field": "open fields",
    "villas": "detached houses with gardens",
    "rows": "terraced houses in unbroken rows",
    "slabs": "apartment blocks of middling height",
    "towers": "a dense wall of towers",
    "works": "factory sheds behind fences",
    "park": "a park with lawns and trees",
    "sports": "a sports ground",
    "car_park": "an open car park",
}
COVER_PHRASES = {
    **SIDE_PHRASES,
    "works": "large factory sheds and storage tanks",
    "towers": "dense towers with long shadows",
    "car_park": "car parks filled with parked cars",
    "sports": "sports fields with running tracks",
    "water": "open water",
    "trees": "tree cover",
}
PLURAL_QUANTITIES = ((4, "a few"), (8, "several"), (15, "many"))
QUANTITIES = ((1, "a single"), (2, "two"), *PLURAL_QUANTITIES)
SHARES = (
    (0.04, "a trace of"), (0.12, "a small part of"), (0.25, "about a fifth of"),
    (0.42, "about a third of"), (0.6, "about half of"), (0.85, "most of"), (2.0, "nearly all of"),
)  # fmt: skip
STOREYS = (
    (1.5, "one storey"), (2.5, "two storeys"), (4, "three or four storeys"),
    (7, "five to seven storeys"), (12, "about ten storeys"), (99, "well over ten storeys"),
)  # fmt: skip
ROADS = {
    "avenue": "wide avenue with several lanes",
    "street": "narrow street with one lane each way",
}
SKIES = {
    "clear": "clear and blue",
    "overcast": "grey and overcast",
    "evening": "in the colours of evening",
}
STATES = (
    (0.35, "worn and in need of repair"), (0.6, "plain but in order"),
    (1, "well kept and freshly painted"),
)  # fmt: skip
CROWDING = (
    (0.12, "few and far between"), (0.3, "at some distance from one another"),
    (1, "crowded together"),
)  # fmt: skip
MESHES = ((0.16, "wide-meshed"), (1, "fine and dense"))


def _step(value: float, steps: Sequence[tuple[float, str]], beyond: str = "") -> str:
    return next((word for limit, word in steps if value <= limit), beyond or steps[-1][1])


def street_view_facts(view: StreetView) -> list[Fact]:
    """Facts of a street view, sorted by decreasing weight."""
    scene = view.scene
    left, right = (SIDE_PHRASES[KINDS[kind]] for kind in scene.kinds)
    facts = [
        Fact("left side", left, 0.9),
        Fact("right side", right, 0.9),
        Fact("carriageway", ROADS[scene.road], 0.8),
        Fact("season", scene.season, 0.5),
        Fact("sky", SKIES[scene.sky], 0.6),
    ]
    if view.storeys > 0:
        facts.append(Fact("height", _step(view.storeys, STOREYS), 0.7))
        facts.append(Fact("facades", _step(scene.latents["wealth"], STATES), 0.5))
    if view.near_river:
        facts.append(Fact("river", "close by", 0.4))
    attributes: dict[str, list[str]] = {}
    for item in view.objects:
        if item.name not in HOUSES.values():  # part of the facts on the sides of the street
            attributes.setdefault(item.name, []).append(item.attribute)
    for name, words in attributes.items():
        usual = max(sorted(set(words)), key=words.count)
        amount = _step(len(words), QUANTITIES, "a great many")
        facts.append(Fact(name, f"{amount} {usual}".strip(), min(0.8, 0.25 + 0.06 * len(words))))
    return sorted(facts, key=lambda fact: -fact.weight)


def satellite_facts(tile: Tile) -> list[Fact]:
    """Facts of a satellite tile, sorted by decreasing weight."""
    facts = [
        Fact(phrase, _step(share, SHARES), min(0.95, 0.3 + share))
        for name, phrase in COVER_PHRASES.items()
        if (share := tile.shares.get(name, 0.0)) > 0.01
    ]
    facts.append(Fact("roofs", _step(tile.shares["building"], CROWDING), 0.6))
    facts.append(Fact("street network", _step(tile.shares["road"], MESHES), 0.6))
    if tile.shares["rail"] > 0.001:
        facts.append(Fact("railway line", "crossing the square", 0.5))
    for name, label in (("pools", "swimming pools"), ("tanks", "round storage tanks")):
        if tile.counts[name] > 0:
            amount = _step(tile.counts[name], PLURAL_QUANTITIES, "a great many")
            facts.append(Fact(label, amount, 0.35))
    return sorted(facts, key=lambda fact: -fact.weight)


# hallucinated facts
STREET_FANCIES = (
    Fact("fountain", "a stone"), Fact("tram", "a yellow"),
    Fact("market stall", "several colourful"), Fact("bicycle", "a few parked"),
    Fact("river", "close by"), Fact("chimney", "a single tall"), Fact("scaffolding", "a large"),
    Fact("dog", "a small brown"), Fact("shop sign", "many bright"), Fact("bus", "a single blue"),
    Fact("statue", "a bronze"), Fact("crane", "a tall red"),
)  # fmt: skip
SATELLITE_FANCIES = (
    Fact("stadium", "a corner of a"), Fact("railway line", "crossing the square"),
    Fact("harbour basin", "a corner of a"), Fact("swimming pools", "several"),
    Fact("open water", "a small part of"), Fact("vineyards", "a small part of"),
    Fact("runway", "the end of a"), Fact("construction sites", "a small part of"),
    Fact("greenhouses", "a few"), Fact("round storage tanks", "many"),
    Fact("car parks filled with parked cars", "about a fifth of"),
)  # fmt: skip
TEMPLATES = {
    "left side": "{value} on the left",
    "right side": "{value} on the right",
    "carriageway": "a {value}",
    "season": "the marks of {value} in the foliage and the light",
    "sky": "a sky that is {value}",
    "height": "buildings of {value}",
    "facades": "facades that are {value}",
    "river": "a river {value}",
    "roofs": "roofs {value}",
    "street network": "a street network that is {value}",
    "railway line": "a railway line {value}",
}
DETAILS = (
    "which sets the tone of the place",
    "as one would expect here",
    "easily told apart from its surroundings",
    "in keeping with the rest",
    "plain to see",
    "as far as can be made out",
)
MANY = ("a few", "a great", "two", "several", "many")
MIN_WORDS, MAX_WORDS = 100, 200


def phrase(fact: Fact, view: str) -> str:
    """Text of a fact in the default vocabulary."""
    if fact.key in TEMPLATES:
        return TEMPLATES[fact.key].format(value=fact.value)
    if view == "satellite" and fact.value in {word for _, word in SHARES}:
        return f"{fact.key} over {fact.value} the ground"
    plural = {"bus": "buses"}.get(fact.key, fact.key.removesuffix("s") + "s")
    return f"{fact.value} {plural if fact.value.startswith(MANY) else fact.key}"


def reference_caption(facts: Sequence[Fact], view: str) -> Caption:
    """Caption with all facts and no errors, in the default vocabulary."""
    plain = Captioner(REFERENCE, 0.0, 0.0, {}, OPENINGS[view], ("It shows",), "")
    return _fit(plain, list(facts), (), (), view)


def write_caption(
    captioner: Captioner, facts: Sequence[Fact], view: str, rng: np.random.Generator
) -> Caption:
    """Simulate a captioner's caption of an image.

    Args:
        captioner: Simulated captioner.
        facts: True facts about the image.
        view: "street_view" or "satellite".
        rng: Random generator of omissions and hallucinations.
    """
    left_out = rng.uniform(size=len(facts)) < [omission_chance(captioner, one) for one in facts]
    told = [fact for fact, out in zip(facts, left_out, strict=True) if not out]
    omitted = tuple(fact for fact, out in zip(facts, left_out, strict=True) if out)
    # hallucinate only subjects that are not in the image
    known = {fact.key for fact in facts}
    fancies = STREET_FANCIES if view == "street_view" else SATELLITE_FANCIES
    possible = [fancy for fancy in fancies if fancy.key not in known]
    # a share h of all stated facts is h / (1 - h) per true fact
    odds = captioner.hallucination / (1 - captioner.hallucination)
    number = min(int(rng.binomial(len(told), odds)), len(possible))
    chosen = sorted(rng.choice(len(possible), size=number, replace=False).tolist())
    invented = tuple(possible[index] for index in chosen)
    for fancy in invented:
        told.insert(int(rng.integers(len(told) // 2, len(told) + 1)), fancy)
    return _fit(captioner, told, invented, omitted, view, int(rng.integers(len(DETAILS))))


def omission_chance(captioner: Captioner, fact: Fact) -> float:
    """Probability of omitting a fact: `2 * omission * (1 - weight)`, at most 1."""
    return min(1.0, 2 * captioner.omission * (1 - fact.weight))


def _fit(
    captioner: Captioner,
    told: list[Fact],
    invented: tuple[Fact, ...],
    omitted: tuple[Fact, ...],
    view: str,
    first_detail: int = 0,
) -> Caption:
    """Write a caption, dropping the last facts until it has at most `MAX_WORDS` words."""
    while len((text := _write(captioner, told, view, first_detail)).split()) > MAX_WORDS:
        last = told.pop()
        if last not in invented:
            omitted = (*omitted, last)
    hallucinated = tuple(fact for fact in invented if fact in told)
    return Caption(captioner.name, text, hallucinated, omitted)


def _write(captioner: Captioner, facts: Sequence[Fact], view: str, first_detail: int) -> str:
    joints = captioner.joints
    told = [f"{joints[i % len(joints)]} {phrase(fact, view)}." for i, fact in enumerate(facts)]
    sentences = [captioner.opening, *told, captioner.closing]
    # append generic details until there are `MIN_WORDS` words
    missing, turn = MIN_WORDS - sum(len(part.split()) for part in sentences), 0
    while missing > 0 and told:
        index = 1 + turn % len(told)
        # shift by one per round, so that no sentence repeats a detail
        detail = DETAILS[(first_detail + turn + turn // len(told)) % len(DETAILS)]
        sentences[index] = f"{sentences[index].removesuffix('.')}, {detail}."
        missing, turn = missing - len(detail.split()), turn + 1
    return reword(" ".join(part for part in sentences if part), captioner)


def reword(text: str, captioner: Captioner) -> str:
    """Replace default words by the captioner's synonyms."""

    def own(word: str) -> str:
        core = word.strip(".,;:")
        return word.replace(core, captioner.words[core]) if core in captioner.words else word

    return " ".join(own(word) for word in text.split(" "))
