"""Text encoder of an image-text checkpoint."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from transformers import CLIPModel, Siglip2Model, SiglipModel

from dataset_builders.files import digest
from dataset_builders.parquet import is_whole, write_parquet
from modeling_urbanln import UrbanLNSiglipModel, clean_text
from pipelines.common.encoders.weights import fingerprint

from ..errors import InputError

IMAGE_SIDE = ("vision_model.", "visual_projection.")
TOKENIZED_AT_ONCE = 10_000


class TextTower:
    """Encode texts with a checkpoint's `get_text_features` (projected, not normalised).

    Args:
        model: Model in eval mode, on its device.
        tokenizer: Tokenizer of the checkpoint.
        name: Name in tables.
        random_init: Whether the weights are randomly initialised.

    Attributes:
        max_length: Maximum number of tokens per text; longer texts are truncated.
        logit_scale: Scale of cosine similarities, `exp` of the checkpoint's parameter.
        fingerprint: Hash of weights, vocabulary and `max_length`.
    """

    def __init__(self, model: Any, tokenizer: Any, name: str, random_init: bool = False):
        self.model, self.tokenizer = model, tokenizer
        self.name, self.random_init = name, random_init
        text_config = getattr(model.config, "text_config", model.config)
        positions = getattr(text_config, "max_position_embeddings", tokenizer.model_max_length)
        self.max_length = int(min(tokenizer.model_max_length, positions))
        self.device = next(model.parameters()).device
        self.logit_scale = (
            float(model.logit_scale.detach().exp()) if hasattr(model, "logit_scale") else 1.0
        )
        weights = {k: v for k, v in model.state_dict().items() if not k.startswith(IMAGE_SIDE)}
        vocabulary = sorted(tokenizer.get_vocab().items())
        self.fingerprint = fingerprint(digest(vocabulary, self.max_length), weights)

    @torch.inference_mode()
    def encode(self, texts: Sequence[str], batch_size: int = 64) -> NDArray[np.float32]:
        """Text features, `(N, D)`, batched by length.

        Raises:
            InputError: `texts` is empty.
        """
        if not texts:
            raise InputError("There is no text to encode.")
        texts = self._cleaned(texts)
        lengths = self._lengths(texts)
        order = np.argsort(lengths, kind="stable")
        vectors: NDArray[np.float32] | None = None
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            found = self._encode_batch([texts[row] for row in rows])
            if vectors is None:
                vectors = np.empty((len(texts), found.shape[1]), np.float32)
            vectors[rows] = found
        assert vectors is not None
        return vectors

    def count_truncated(self, texts: Sequence[str]) -> int:
        """Number of texts longer than `max_length` tokens."""
        return int((self._lengths(self._cleaned(texts)) > self.max_length).sum())

    def _cleaned(self, texts: Sequence[str]) -> list[str]:
        """Clean texts as in the training of CLIP, which CLIP's tokenizer in transformers omits."""
        is_cleaned = isinstance(self.model, CLIPModel | UrbanLNSiglipModel)
        return [clean_text(text) for text in texts] if is_cleaned else list(texts)

    def _lengths(self, texts: Sequence[str]) -> NDArray[np.int64]:
        lengths: list[int] = []
        for start in range(0, len(texts), TOKENIZED_AT_ONCE):
            part = list(texts[start : start + TOKENIZED_AT_ONCE])
            lengths += map(len, self.tokenizer(part, truncation=False, verbose=False)["input_ids"])
        return np.array(lengths)

    def _encode_batch(self, texts: list[str]) -> NDArray[np.float32]:
        # SigLIP pools the last position and was trained on padded texts without a mask
        is_padded = isinstance(self.model, SiglipModel | Siglip2Model)
        tokens = self.tokenizer(
            texts,
            padding="max_length" if is_padded else True,
            truncation=True,
            max_length=self.max_length,
            return_tensors="pt",
        ).to(self.device)
        mask = None if is_padded else tokens.get("attention_mask")
        features = self.model.get_text_features(input_ids=tokens["input_ids"], attention_mask=mask)
        pooled = features if isinstance(features, torch.Tensor) else features.pooler_output
        return pooled.float().cpu().numpy()


def load_text_tower(
    model_name_or_path: str,
    *,
    random_init: bool = False,
    seed: int = 0,
    device: str = "cpu",
    trust_remote_code: bool = False,
) -> TextTower:
    """Load the text encoder of a checkpoint, or initialise its architecture randomly.

    Args:
        model_name_or_path: Hub id or folder: UrbanLN, CLIP, or another model of transformers with
            `get_text_features`.
        random_init: Initialise randomly instead of loading weights.
        seed: Seed of the initialisation, which equals that of `load_model_encoder`.
        device: Device of the model.
        trust_remote_code: Allow code from the checkpoint.

    Raises:
        InputError: The checkpoint does not exist, has no text encoder, or lacks weights.
    """
    import transformers

    import modeling_urbanln  # noqa: F401 - registers the auto classes

    name, trust = model_name_or_path, trust_remote_code
    try:
        # a special token spelled out in a query must not end it
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            name, trust_remote_code=trust, split_special_tokens=True
        )
        if random_init:
            config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=trust)
            transformers.set_seed(seed)
            model = transformers.AutoModel.from_config(config, trust_remote_code=trust)
            missing = []
        else:
            model, report = transformers.AutoModel.from_pretrained(
                name, trust_remote_code=trust, output_loading_info=True
            )
            missing = sorted(k for k in report["missing_keys"] if not k.startswith(IMAGE_SIDE))
    except MemoryError:
        raise
    except Exception as error:  # any fault in the checkpoint's files
        raise InputError(
            f"No usable checkpoint at {name!r} (--model_name_or_path): {error}"
        ) from error
    if not hasattr(model, "get_text_features"):
        raise InputError(
            f"{name!r} is a {type(model).__name__} without get_text_features. Use UrbanLN, CLIP or "
            "another image-text model of the transformers library."
        )
    if missing:
        raise InputError(
            f"{len(missing)} weights of the text encoder of {name!r} are missing "
            f"({', '.join(missing[:3])}...). Is it the folder of a finished model?"
        )
    title = f"{Path(name).name} ({type(model).__name__})"
    return TextTower(model.float().to(device).eval(), tokenizer, title, random_init)


def cached_vectors(
    folder: Path, tower: TextTower, texts: Sequence[str], batch_size: int = 64
) -> NDArray[np.float32]:
    """Encode texts, or read their vectors from the cache in `folder`."""
    path = folder / f"texts-{digest(tower.fingerprint, list(texts))}.parquet"
    if not is_whole(path):
        found = tower.encode(texts, batch_size)
        column = pa.FixedSizeListArray.from_arrays(pa.array(found.ravel()), found.shape[1])
        write_parquet(path, pa.table({"vector": column}))
    column = pq.read_table(path)["vector"].combine_chunks()
    return column.flatten().to_numpy().reshape(len(texts), -1)


__all__ = ["TextTower", "cached_vectors", "load_text_tower"]
