"""Processor of UrbanLN."""

import functools
import html
from collections.abc import Callable
from dataclasses import dataclass

from transformers import (
    AutoImageProcessor,
    AutoTokenizer,
    BatchFeature,
    CLIPProcessor,
    GemmaTokenizer,
    Siglip2Tokenizer,
)
from transformers.utils import logging

MAX_LENGTH, SIGLIP_MAX_LENGTH = 248, 196

logger = logging.get_logger(__name__)


@dataclass(frozen=True)
class TruncationReport:
    """Number of texts that exceed the length limit.

    Attributes:
        num_texts: Number of texts.
        num_truncated: Number of texts longer than the limit.
        max_length: Limit in tokens, including start and end tokens.
        longest: Number of tokens of the longest text.
    """

    num_texts: int
    num_truncated: int
    max_length: int
    longest: int

    @property
    def rate(self) -> float:
        """Share of truncated texts, 0 to 1."""
        return self.num_truncated / self.num_texts if self.num_texts else 0.0

    def __str__(self) -> str:
        return (
            f"{self.num_truncated} of {self.num_texts} texts ({self.rate:.1%}) are truncated at "
            f"{self.max_length} tokens; the longest has {self.longest}"
        )


class UrbanLNProcessor(CLIPProcessor):
    """Wraps an image processor and a tokenizer of CLIP or SigLIP 2 for long text.

    Texts are cleaned (see [`clean_text`]), padded to the longest of the batch and truncated to the
    tokenizer's `model_max_length`, keeping the end token. As in open_clip, a special token spelled
    out in a text, such as `<|endoftext|>`, is tokenized as characters; as a token it would end
    the text.

    Args:
        image_processor: Image processor of the checkpoint.
        tokenizer: Tokenizer of the checkpoint; its `split_special_tokens` is set to True.

    Example:
        >>> processor = UrbanLNProcessor.from_pretrained("org/urbanln-vitb16")
        >>> inputs = processor(text=["a wide street"], images=[image], return_tensors="pt")
    """

    text_kwargs = {"padding": True, "truncation": True}  # noqa: RUF012 - read by ProcessorMixin

    def __init__(self, image_processor=None, tokenizer=None, **kwargs):
        super().__init__(image_processor, tokenizer)
        if tokenizer is not None:
            tokenizer.split_special_tokens = True
            tokenizer.init_kwargs["split_special_tokens"] = True

    @classmethod
    def from_clip_pretrained(
        cls, name_or_path: str, max_length: int | None = None
    ) -> "UrbanLNProcessor":
        """Load the processor of a CLIP or SigLIP 2 checkpoint with a longer text limit.

        SigLIP 2 uses Gemma's tokenizer and was trained on lower-cased text, padded on the right.

        Args:
            name_or_path: Hub id or local folder.
            max_length: Limit in tokens. Defaults to 248 for CLIP and 196 for SigLIP 2.
        """
        tokenizer = AutoTokenizer.from_pretrained(
            name_or_path, model_max_length=max_length or MAX_LENGTH
        )
        if isinstance(tokenizer, GemmaTokenizer | Siglip2Tokenizer):
            tokenizer = Siglip2Tokenizer.from_pretrained(
                name_or_path,
                model_max_length=max_length or SIGLIP_MAX_LENGTH,
                padding_side="right",
                add_bos_token=False,
                add_eos_token=True,
            )
        # saving a tokenizer after use stores the limit of its last call
        tokenizer.init_kwargs.pop("max_length", None)
        return cls(AutoImageProcessor.from_pretrained(name_or_path), tokenizer)

    def __call__(self, images=None, text=None, **kwargs) -> BatchFeature:
        """Prepare images, texts, or both; see `CLIPProcessor` for the arguments."""
        if text is not None:
            text = clean_text(text) if isinstance(text, str) else [clean_text(one) for one in text]
        return super().__call__(images=images, text=text, **kwargs)

    def truncation_report(
        self, text: str | list[str], max_length: int | None = None
    ) -> TruncationReport:
        """Count the texts that are truncated.

        Args:
            text: Text or list of texts.
            max_length: Limit in tokens. Defaults to the tokenizer's `model_max_length`.
        """
        texts = [clean_text(one) for one in ([text] if isinstance(text, str) else text)]
        limit = max_length or self.tokenizer.model_max_length
        rows = self.tokenizer(texts, truncation=False, verbose=False)["input_ids"] if texts else []
        lengths = [len(ids) for ids in rows]
        cut = sum(length > limit for length in lengths)
        return TruncationReport(len(texts), cut, limit, max(lengths, default=0))


def clean_text(text: str) -> str:
    """Clean a text as OpenAI's CLIP and open_clip do before tokenization.

    Repairs mis-decoded characters, replaces typographic quotes and ligatures by plain characters,
    and unescapes HTML entities. The tokenizers of `transformers` skip this step, so that "the
    city's park" with a typographic apostrophe has 8 tokens instead of 6. The repair needs the
    package `ftfy`; without it, a warning is logged and only HTML entities are replaced.
    """
    return html.unescape(html.unescape(_text_repair()(text))).strip()


@functools.cache
def _text_repair() -> Callable[[str], str]:
    """`ftfy.fix_text`, imported lazily because the import is slow."""
    try:
        from ftfy import fix_text
    except ImportError:
        logger.warning(
            "`ftfy` is not installed: typographic quotes and mis-decoded characters are tokenized "
            "differently than in training. Run `pip install ftfy`."
        )
        return str
    return fix_text


__all__ = ["MAX_LENGTH", "TruncationReport", "UrbanLNProcessor", "clean_text"]
