"""Speed of the caption consensus, as ratios to the algorithm of `capture_metric`.

python -m benchmarks.consensus                   # all
python -m benchmarks.consensus cold              # empty phrase cache
python -m benchmarks.consensus warm              # one phrase cache over 200 images

The baseline reimplements `capture_metric` 0.1.13 with the same encoder: it scores each ordered pair
separately, embeds its unmatched phrases in batches of 4 and looks up NLTK synsets for each
comparison of words. It is timed on a sample of the ordered pairs, alternating with the consensus,
and the scores of both are compared. Both run on one thread. Ratios of CPU time are reported beside
those of wall time, as other processes affect them little.

The graphs are parsed from real captions (`capture/capture_golden.json` of the shared data folder).
The candidates of an image are a random sample of them, so they agree less than captions of one
image do. For `warm`, some relations are recombined from the words of others (synthetic), so that
the cache misses as often as on 1,200 real captions of cities (28 per image, late in the run).
"""

import json
import os
import random
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measure import timed
from pipelines.captioning.capture import Encode, ParsedCaption, consensus
from pipelines.captioning.encoder import PhraseCache, SentenceEncoder, sentence_encoder
from pipelines.captioning.wordnet import open_wordnet, wordnet_synonyms

CANDIDATES = 15
IMAGES = 200
ORDERED_PAIRS = CANDIDATES * (CANDIDATES - 1)
TIMED_PAIRS = 24
THREADS = 8
NEW_RELATIONS = 22  # per image
EPSILON = 1e-6
ROOT = Path(__file__).resolve().parents[1]
SHARED_DATA = Path(os.environ.get("URBANLN_SHARED_DATA", ROOT.parent / "shared" / "data"))

Lists = tuple[list[str], list[str], list[tuple[str, ...]]]


class Reference:
    """Pairwise caption score by the algorithm of `capture_metric`.

    Args:
        model: Model of sentence-transformers.
        synsets: Function from a word to its NLTK synsets.
    """

    def __init__(self, model: Any, synsets: Callable[[str], list[Any]]):
        self._model, self._synsets = model, synsets

    def score(self, candidate: ParsedCaption, reference: ParsedCaption) -> float:
        """CAPTURE score of one ordered pair."""
        alike: list[Callable[..., bool]] = [self._synonymous] * 2 + [self._all_synonymous]
        mine, theirs = _lists(candidate), _lists(reference)
        f1 = [self._f1(mine[kind], theirs[kind], alike[kind]) for kind in range(3)]
        return (0.5 * f1[0] + 0.5 * f1[1] + 0.2 * f1[2]) / 1.2

    def _f1(self, candidate: list[Any], reference: list[Any], alike: Callable[..., bool]) -> float:
        mine, theirs = set[int](), set[int]()
        for same in (lambda one, other: one == other, alike):
            for row, one in enumerate(candidate):
                if row in mine:
                    continue
                for column, other in enumerate(reference):
                    if column not in theirs and same(one, other):
                        mine.add(row)
                        theirs.add(column)
                        break
        left = [_text(one) for row, one in enumerate(candidate) if row not in mine]
        right = [_text(one) for column, one in enumerate(reference) if column not in theirs]
        precision = recall = float(len(mine))
        if left and right:
            vectors = self._model.encode(left + right, batch_size=4, show_progress_bar=False)
            vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
            cosines = vectors[: len(left)] @ vectors[len(left) :].T
            precision += float(cosines.max(axis=1).sum())
            recall += float(cosines.max(axis=0).sum())
        precision /= len(candidate) + EPSILON
        recall /= len(reference) + EPSILON
        return 2 * precision * recall / (precision + recall + EPSILON)

    def _synonymous(self, one: str, other: str) -> bool:
        if one in other or other in one:
            return True
        return bool(self._names(one) & self._names(other))

    def _all_synonymous(self, one: tuple[str, ...], other: tuple[str, ...]) -> bool:
        parts = [self._synonymous(*words) for words in zip(one, other, strict=True)]
        return all(parts)

    def _names(self, word: str) -> set[str]:
        synsets = self._synsets("_".join(word.split()))
        return {lemma.name() for synset in synsets for lemma in synset.lemmas()}


def _lists(caption: ParsedCaption) -> Lists:
    return sorted(caption.objects), caption.attribute_words(), sorted(caption.relations)


def _text(item: str | tuple[str, ...]) -> str:
    return item if isinstance(item, str) else " ".join(item)


@contextmanager
def nltk_synsets() -> Iterator[Callable[[str], list[Any]]]:
    """NLTK's WordNet reader over a copy of WordNet with the index files that it requires."""
    import nltk
    from nltk.corpus.reader.wordnet import WordNetCorpusReader

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "corpora" / "wordnet"
        place.mkdir(parents=True)
        for part in ("noun", "verb", "adj", "adv"):
            for name in (f"index.{part}", f"data.{part}", f"{part}.exc"):
                (place / name).write_bytes((open_wordnet().folder / name).read_bytes())
        names = (f"{number:02d}\tname{number}\t1\n" for number in range(45))
        (place / "lexnames").write_text("".join(names))
        (place / "index.sense").write_text("")
        nltk.data.path.insert(0, folder)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reader = WordNetCorpusReader(str(place), None)
        yield reader.synsets


def golden_captions() -> list[ParsedCaption]:
    """Unique graphs of the golden pairs that were parsed from real captions."""
    path = SHARED_DATA / "capture" / "capture_golden.json"
    if not path.is_file():
        raise SystemExit(f"{path} is missing; set URBANLN_SHARED_DATA to the shared data folder.")
    pairs = json.loads(path.read_text(encoding="utf-8"))["pairs"]
    real = [pair for pair in pairs if pair["kind"] in ("random", "urbanvlp_v2_sv")]
    graphs = [pair[side] for pair in real for side in ("gt", "cand")]
    captions = [
        ParsedCaption(graph["objects"], graph["attributes"], graph["relations"]) for graph in graphs
    ]
    return list(dict.fromkeys(captions))


def images(number: int) -> list[list[ParsedCaption]]:
    """Candidates of `number` images, sampled without replacement within an image."""
    captions, rng = golden_captions(), random.Random(0)
    return [rng.sample(captions, CANDIDATES) for _ in range(number)]


def with_new_relations(pool: list[ParsedCaption], rng: random.Random) -> list[ParsedCaption]:
    """Recombine `NEW_RELATIONS` relations of the candidates (synthetic)."""
    words = [
        sorted({relation[part] for one in pool for relation in one.relations}) for part in range(3)
    ]
    places = [
        (number, relation) for number, one in enumerate(pool) for relation in sorted(one.relations)
    ]
    relations = [set(one.relations) for one in pool]
    for number, relation in rng.sample(places, NEW_RELATIONS):
        subject, verb, thing = (rng.choice(choices) for choices in words)
        relations[number] ^= {relation, (subject, verb, thing)}
    return [
        ParsedCaption(one.objects, one.attributes, frozenset(new))
        for one, new in zip(pool, relations, strict=True)
    ]


class Race:
    """Wall and CPU time of the consensus and of the reference, measured in alternation.

    Args:
        encoder: Phrase encoder of both.
        synsets: Function from a word to its NLTK synsets.
    """

    def __init__(self, encoder: SentenceEncoder, synsets: Callable[[str], list[Any]]):
        self._reference, self._encoder = Reference(encoder.model, synsets), encoder
        self._rng, self._differences = random.Random(1), [0.0]
        self.pairs = 0
        self.theirs, self.ours = np.zeros(2), np.zeros(2)
        self.images = 0

    def run_ours(self, pools: list[list[ParsedCaption]], encode: Encode) -> None:
        """Compute the consensus of several images concurrently."""
        with ThreadPoolExecutor(THREADS) as threads:
            self.ours += timed(
                lambda: list(threads.map(lambda pool: consensus(pool, encode), pools))
            )[0]
        self.images += len(pools)

    def run_theirs(self, pool: list[ParsedCaption], pairs: int) -> None:
        """Score `pairs` random ordered pairs of an image."""
        for _ in range(pairs):
            pair = self._rng.sample(pool, 2)
            seconds, score = timed(self._reference.score, *pair)
            self.theirs += seconds
            # with two candidates, each mean is the score of the pair
            self._differences.append(abs(consensus(pair, self._encoder)[0] - score))
        self.pairs += pairs

    def report(self, name: str) -> None:
        """Print the results."""
        pair_s, image_s = self.theirs / self.pairs, self.ours / self.images
        wall, cpu = pair_s * ORDERED_PAIRS / image_s
        print(
            f"reference (reimplemented): {1 / pair_s[0]:.1f} pairs/s "
            f"(from {self.pairs} ordered pairs), {pair_s[0] * ORDERED_PAIRS:.1f} s per image of "
            f"{CANDIDATES} candidates; maximum difference of scores {max(self._differences):.1e}"
        )
        print(
            f"{name}: {1000 * image_s[0]:.0f} ms per image (mean of {self.images}): "
            f"{wall:.0f}x in wall time, {cpu:.0f}x in CPU time "
            f"(with 105 instead of {ORDERED_PAIRS} pairs: {wall / 2:.0f}x, {cpu / 2:.0f}x)"
        )


def cold(number: int = 8) -> None:
    """Consensus with empty phrase and synonym caches."""
    encoder, pools = sentence_encoder(), images(number + 1)
    with nltk_synsets() as synsets:
        warm_up = Race(encoder, synsets)
        warm_up.run_ours(pools[-1:], encoder)
        warm_up.run_theirs(pools[-1], 1)
        race = Race(encoder, synsets)
        for pool in pools[:number]:
            race.run_theirs(pool, TIMED_PAIRS // number)
            forget_synonyms()
            race.run_ours([pool], PhraseCache(encoder))
    race.report("consensus, cold")


def warm(number: int = IMAGES) -> None:
    """Consensus in 8 threads with one phrase cache, initially empty."""
    rng = random.Random(2)
    encoder, pools = sentence_encoder(), images(number + 1)
    pools = [with_new_relations(pool, rng) for pool in pools]
    with nltk_synsets() as synsets:
        warm_up = Race(encoder, synsets)
        warm_up.run_ours(pools[-1:], encoder)
        warm_up.run_theirs(pools[-1], 1)
        forget_synonyms()
        race, cache = Race(encoder, synsets), PhraseCache(encoder)
        for start in range(0, number, number // TIMED_PAIRS):
            some = pools[start : min(start + number // TIMED_PAIRS, number)]
            race.run_ours(some, cache)
            race.run_theirs(some[0], 1)
    each = len(cache) / number
    race.report(f"consensus, one cache for {number} images, {each:.0f} new phrases per image")


def forget_synonyms() -> None:
    """Clear the synonym cache by reloading WordNet."""
    open_wordnet.cache_clear()
    wordnet_synonyms.cache_clear()
    wordnet_synonyms()


def main() -> None:
    torch.set_num_threads(1)
    parts: dict[str, Callable[[], None]] = {"cold": cold, "warm": warm}
    for part in [parts[sys.argv[1]]] if sys.argv[1:] else parts.values():
        part()


if __name__ == "__main__":
    main()
