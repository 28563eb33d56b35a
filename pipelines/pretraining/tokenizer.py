"""CLIP's tokenizer, built from the vocabulary inside the open_clip wheel: no Hub needed."""

import gzip
from importlib.resources import files
from typing import Any

from transformers import CLIPTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

VOCABULARY_FILE = "bpe_simple_vocab_16e6.txt.gz"
NUM_MERGES = 49152 - 256 - 2  # CLIP uses only the first merges of the file
SPECIAL_TOKENS = ("<|startoftext|>", "<|endoftext|>")


def clip_tokenizer(model_max_length: int = 248) -> CLIPTokenizer:
    """The tokenizer of every OpenAI CLIP checkpoint (49,408 entries).

    Args:
        model_max_length: where truncation cuts, start and end token included.

    Returns:
        A `CLIPTokenizer` equal to the one of `openai/clip-vit-base-patch16`, but for its length.
    """
    packed = (files("open_clip") / VOCABULARY_FILE).read_bytes()
    lines = gzip.decompress(packed).decode("utf-8").split("\n")
    # Any: the annotation of CLIPTokenizer is narrower than what it takes
    merges: Any = [tuple(line.split()) for line in lines[1 : NUM_MERGES + 1]]
    alphabet = list(bytes_to_unicode().values())
    entries = [
        *alphabet,
        *(letter + "</w>" for letter in alphabet),
        *("".join(pair) for pair in merges),
        *SPECIAL_TOKENS,
    ]
    vocabulary = {entry: index for index, entry in enumerate(entries)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=model_max_length)


__all__ = ["clip_tokenizer"]
