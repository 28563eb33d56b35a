"""CLIP's tokenizer, built from the vocabulary in the open_clip package; needs no network."""

from typing import Any

from transformers import CLIPTokenizer

SPECIAL_TOKENS = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}


def clip_tokenizer(model_max_length: int = 248) -> CLIPTokenizer:
    """The tokenizer of every OpenAI CLIP checkpoint (49,408 entries).

    Args:
        model_max_length: Length at which texts are truncated, start and end token included.

    Returns:
        A `CLIPTokenizer` equal to that of `openai/clip-vit-base-patch16`, except for its length.
    """
    from open_clip import SimpleTokenizer

    source = SimpleTokenizer()
    # Any: the annotation of CLIPTokenizer is narrower than what it takes
    vocabulary: Any = {SPECIAL_TOKENS.get(entry, entry): i for entry, i in source.encoder.items()}
    merges: Any = list(source.bpe_ranks)
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=model_max_length)


__all__ = ["clip_tokenizer"]
