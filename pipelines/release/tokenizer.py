"""CLIP's tokenizer, from a folder or the Hub, or out of the open_clip wheel: no network needed."""

from typing import Any

from transformers import CLIPTokenizer

from .errors import ReleaseError


def load_tokenizer(name_or_path: str | None, max_length: int) -> CLIPTokenizer:
    """The tokenizer of a converted model.

    Args:
        name_or_path: folder or Hub id; None for the one of OpenAI's CLIP (49,408 entries), which
            open_clip ships.
        max_length: where truncation cuts, start and end token included.

    Raises:
        ReleaseError: there is no tokenizer of that name.
    """
    if name_or_path is None:
        from open_clip import SimpleTokenizer

        source = SimpleTokenizer()
        names = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
        # Any: the annotation of CLIPTokenizer is narrower than what it takes
        vocabulary: Any = {names.get(entry, entry): i for entry, i in source.encoder.items()}
        merges: Any = list(source.bpe_ranks)
        return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=max_length)
    try:
        return CLIPTokenizer.from_pretrained(name_or_path, model_max_length=max_length)
    except (OSError, ValueError) as error:
        raise ReleaseError(
            f"No usable tokenizer at {name_or_path!r} (--tokenizer): {error}"
        ) from error


__all__ = ["load_tokenizer"]
