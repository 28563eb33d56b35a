"""Processor of UrbanLN: CLIP's, for texts of up to 248 tokens, and open about truncation."""

from dataclasses import dataclass, replace

from transformers import AutoImageProcessor, AutoTokenizer, BatchFeature, CLIPProcessor

MAX_LENGTH = 248


@dataclass(frozen=True)
class TruncationReport:
    """How many texts lost their end to the length limit, over all calls so far.

    Attributes:
        num_texts: texts seen.
        num_truncated: texts that were longer than the limit.
        max_length: the limit in tokens, start and end token included.
        longest: tokens of the longest text that was cut (0: none was).
    """

    num_texts: int = 0
    num_truncated: int = 0
    max_length: int = MAX_LENGTH
    longest: int = 0

    @property
    def rate(self) -> float:
        """Share of the texts that were cut, 0 to 1."""
        return self.num_truncated / self.num_texts if self.num_texts else 0.0

    def __str__(self) -> str:
        said = (
            f"{self.num_truncated} of {self.num_texts} texts ({self.rate:.1%}) were cut at "
            f"{self.max_length} tokens"
        )
        return f"{said}; the longest had {self.longest}" if self.num_truncated else said


class UrbanLNProcessor(CLIPProcessor):
    """Images to `pixel_values`, texts to `input_ids` and `attention_mask`.

    Texts are padded to the longest of the call and cut at the tokenizer's `model_max_length`
    (248; the end token stays). `truncation` reports what was cut. A special token spelled out in a
    text, such as `<|endoftext|>`, is read as characters, as open_clip reads it: as a token it would
    end the text for the model, unreported.

    Args:
        image_processor: a CLIP image processor.
        tokenizer: a CLIP tokenizer; its `split_special_tokens` is set, and saved with it.
    """

    text_kwargs = {"padding": True, "truncation": True}  # noqa: RUF012 - read by ProcessorMixin

    def __init__(self, image_processor=None, tokenizer=None, **kwargs):
        super().__init__(image_processor, tokenizer)
        if tokenizer is not None:
            tokenizer.split_special_tokens = True
            tokenizer.init_kwargs["split_special_tokens"] = True
        self.reset_truncation()

    @classmethod
    def from_clip_pretrained(
        cls, name_or_path: str, max_length: int = MAX_LENGTH
    ) -> "UrbanLNProcessor":
        """The processor of any CLIP checkpoint, with room for `max_length` tokens."""
        tokenizer = AutoTokenizer.from_pretrained(name_or_path, model_max_length=max_length)
        return cls(AutoImageProcessor.from_pretrained(name_or_path), tokenizer)

    @property
    def truncation(self) -> TruncationReport:
        """What has been cut since the processor was made or last reset."""
        return self._truncation

    def reset_truncation(self) -> None:
        """Start counting anew."""
        max_length = self.tokenizer.model_max_length if self.tokenizer is not None else MAX_LENGTH
        self._truncation = TruncationReport(max_length=max_length)

    def __call__(self, images=None, text=None, **kwargs) -> BatchFeature:
        """Prepare images, texts, or both; see `CLIPProcessor` for the arguments."""
        inputs = super().__call__(images=images, text=text, **kwargs)
        if text is not None:
            limit = kwargs.get("max_length") or kwargs.get("text_kwargs", {}).get("max_length")
            self._count(text, inputs["input_ids"], limit or self.tokenizer.model_max_length)
        return inputs

    def _count(self, text: str | list[str], input_ids, max_length: int) -> None:
        texts = [text] if isinstance(text, str) else list(text)
        rows = [input_ids] if isinstance(text, str) and _is_flat(input_ids) else input_ids
        # only a text that fills the limit can have been cut: most calls tokenize nothing twice
        full = [t for t, ids in zip(texts, rows, strict=True) if len(ids) >= max_length]
        lengths = (
            [len(ids) for ids in self.tokenizer(full, truncation=False, verbose=False)["input_ids"]]
            if full
            else []
        )
        cut = [length for length in lengths if length > max_length]
        self._truncation = replace(
            self._truncation,
            num_texts=self._truncation.num_texts + len(texts),
            num_truncated=self._truncation.num_truncated + len(cut),
            max_length=max_length,
            longest=max([self._truncation.longest, *cut]),
        )


def _is_flat(input_ids) -> bool:
    return len(input_ids) > 0 and not hasattr(input_ids[0], "__len__")


__all__ = ["MAX_LENGTH", "TruncationReport", "UrbanLNProcessor"]
