"""Words that name nothing to be seen, and so are no objects of a caption."""

import ast
import importlib.util
from functools import lru_cache
from pathlib import Path
from typing import Literal

from .errors import CaptioningError, MissingDependencyError

StopWords = Literal["urban", "reference", "none"]

# Of the picture and of speech about it; of impressions; of parts and amounts. What a city is made
# of stays, however abstract: facade, intersection, traffic, infrastructure, neighborhood, layout.
_URBAN = """
    angle aspect backdrop background camera caption center centre closeup composition contrast
    corner depiction description detail display distance edge element end example exposure feature
    focus foreground frame front glimpse hue illustration image impression item lens middle
    moment object overview part perspective photo photograph photography picture piece point
    portion position presence representation scene screenshot section setting shade shot side
    snapshot someone something subject text thing tone top version viewer viewpoint visual

    appearance atmosphere balance beauty calm calmness character charm coexistence comfort
    combination complexity contribution convenience diversity dynamic emphasis energy essence
    experience feel feeling function harmony hint hustle idea importance indication influence
    interest interplay life lifestyle mood nature need opportunity possibility potential purpose
    reason result sense serenity spirit style theme time touch tranquility use variation vibe
    vibrancy way

    abundance amount array bit couple dozen group handful kind level lot majority mix mixture
    multitude number pair plenty plethora range series set sort type variety
"""
URBAN_STOP_WORDS = frozenset(_URBAN.split())


@lru_cache(maxsize=3)
def stop_words(name: StopWords) -> frozenset[str]:
    """A list of words by its name.

    Args:
        name: "urban" (ours, for captions of cities), "reference" (that of CAPTURE's reference
            implementation, read from its package without importing it; it also removes *facade,
            intersection, traffic, infrastructure*, ...) or "none".

    Raises:
        MissingDependencyError: the reference's package is not installed.
        CaptioningError: there is no list of that name.
    """
    if name == "urban":
        return URBAN_STOP_WORDS
    if name == "reference":
        return _reference_stop_words()
    if name == "none":
        return frozenset()
    raise CaptioningError(
        f'Unknown stop words {name!r}; use one of "urban", "reference" and "none".'
    )


def _reference_stop_words() -> frozenset[str]:
    package = importlib.util.find_spec("capture_metric")
    if package is None or package.origin is None:
        raise MissingDependencyError(
            "The reference's stop words are those of its own package: "
            '`pip install --no-deps capture-metric==0.1.13`. Or use the stop words "urban".'
        )
    source = (Path(package.origin).parent / "stop_words.py").read_text(encoding="utf-8")
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.Assign):
            return frozenset(ast.literal_eval(statement.value))
    raise CaptioningError(f"{package.origin} is not the capture-metric that is known: no words.")


__all__ = ["URBAN_STOP_WORDS", "StopWords", "stop_words"]
