"""CLIP's tokenizer, built offline from the vocabulary in the open_clip package."""

from typing import Any

from transformers import CLIPTokenizer

SPECIAL_TOKENS = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}


def clip_tokenizer(model_max_length: int = 248) -> CLIPTokenizer:
    """Tokenizer of the OpenAI CLIP checkpoints (49,408 entries).

    Args:
        model_max_length: Limit in tokens, including start and end tokens.

    Returns:
        A `CLIPTokenizer` equal to that of `openai/clip-vit-base-patch16`, except for its limit.
    """
    from open_clip import SimpleTokenizer

    source = SimpleTokenizer()
    # Any: CLIPTokenizer accepts more types than its annotations state
    vocabulary: Any = {SPECIAL_TOKENS.get(entry, entry): i for entry, i in source.encoder.items()}
    merges: Any = list(source.bpe_ranks)
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=model_max_length)


__all__ = ["clip_tokenizer"]
