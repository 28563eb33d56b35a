"""Recipe of a captioning run: a YAML file, validated before anything starts."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from dataset_builders.yaml_records import Record, make_record, read_yaml

from .records import Task, View

AtLeastOne = Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class Component:
    """A component selected by name, with options; in YAML, a string is a name."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)


class GenerateSettings(Record):
    """Settings of the long captions.

    Attributes:
        captions_per_model: Number of captions per image and model.
        temperature: Sampling temperatures of the captions, repeated if there are fewer.
        top_p: Probability mass of nucleus sampling.
        max_tokens: Maximum number of tokens per caption.
    """

    captions_per_model: AtLeastOne = 3
    temperature: tuple[float, ...] = (0.2, 0.7, 0.9)
    top_p: float = 0.95
    max_tokens: int = 400

    @field_validator("temperature")
    @classmethod
    def _not_empty(cls, temperatures: tuple[float, ...]) -> tuple[float, ...]:
        if not temperatures:
            raise ValueError("needs at least one value")
        return temperatures


class SegmentSettings(Record):
    """Settings of the salient boxes: `segmenter`, a name in `kit.PARTS`."""

    segmenter: Component = Component("felzenszwalb")


class FilterSettings(Record):
    """Settings of the phrase filter.

    Attributes:
        parser: Scene graph parser, a name in `kit.PARTS`.
        detector: Phrase detector, a name in `kit.PARTS`.
        threshold: Lowest detector score of a phrase that is kept.
    """

    parser: Component = Component("spacy")
    detector: Component = Component("owlv2")
    threshold: float = 0.01


class ConsensusSettings(Record):
    """Settings of the consensus.

    Attributes:
        weights: Alpha, beta and gamma of CAPTURE: weights of objects, attributes and relations.
        encoder: Sentence encoder for phrases, see `encoder.sentence_encoder`.
    """

    weights: tuple[float, float, float] = (5.0, 5.0, 2.0)
    encoder: str = "sentence-transformers/all-MiniLM-L6-v2"

    @field_validator("weights")
    @classmethod
    def _usable(cls, weights: tuple[float, float, float]) -> tuple[float, float, float]:
        if min(weights) < 0 or not any(weights):
            raise ValueError("must not be negative, nor all 0")
        return weights


class PrivacySettings(Record):
    """Handling of personal data.

    Attributes:
        blur: Pixelate faces and number plates in images for "remote" models (those on other
            machines), "always", or "never".
        detector: "package.module:callable" that detects them; OpenCV's cascades by default.
        redact: Replace web and e-mail addresses, telephone and plate numbers in captions.
    """

    blur: Literal["remote", "always", "never"] = "remote"
    detector: str | None = None
    redact: bool = True


class RunSettings(Record):
    """Settings of the execution, which do not affect results.

    Attributes:
        images_per_shard: Number of images per shard.
        images_in_flight: Images that a process handles concurrently; memory grows with it.
        gallery_size: Number of images in the gallery.
    """

    images_per_shard: AtLeastOne = 256
    images_in_flight: AtLeastOne = 32
    gallery_size: int = 48


class Recipe(Record):
    """Recipe of a captioning run.

    Attributes:
        dataset_name: Folder or Hub id of a dataset in this project's layout, or a folder of images.
        output_dir: Output folder for ledgers, candidates and report.
        models: Fields of each captioning model, see `clients.open_model`. In ties, earlier models
            are preferred.
        cities: Cities to caption; all by default. For a folder of images, the name of its city.
        views: Views to caption; all by default. A folder of images needs exactly one.
        max_images: Maximum number of images per table; the first are used.
        seed: Seed of all sampling.
        synthetic: Whether models or images are simulated, which is stated in reports.
        prompts: Custom prompts, `{task: {view: text}}`; see `prompts`.
        filters: Filters of images and captions: names, or `{name: options}`; see `filters`.
        refine: Check captions against the image and rewrite them. If false (for an ablation, or at
            lower cost), the consensus uses the captions as generated.
    """

    dataset_name: str
    output_dir: str
    models: tuple[Mapping[str, Any], ...]
    cities: tuple[str, ...] | None = None
    views: tuple[str, ...] | None = None
    max_images: int | None = None
    seed: int = 0
    synthetic: bool = False
    prompts: Mapping[Task, Mapping[View, str]] = {}
    filters: tuple[Any, ...] = ("default",)
    refine: bool = True
    generate: GenerateSettings = GenerateSettings()
    segment: SegmentSettings = SegmentSettings()
    filter: FilterSettings = FilterSettings()
    consensus: ConsensusSettings = ConsensusSettings()
    privacy: PrivacySettings = PrivacySettings()
    run: RunSettings = RunSettings()

    @field_validator("models")
    @classmethod
    def _named_once(cls, models: tuple[Mapping[str, Any], ...]) -> tuple[Mapping[str, Any], ...]:
        if not models:
            raise ValueError("a recipe needs at least one model")
        names = [model.get("name") for model in models]
        if not all(isinstance(name, str) and name for name in names):
            raise ValueError("every model must have a `name`, which is text")
        if len(set(names)) < len(names):
            raise ValueError(f"the names must differ: {', '.join(map(str, names))}")
        return models

    @property
    def model_names(self) -> tuple[str, ...]:
        """Model names in order of priority."""
        return tuple(model["name"] for model in self.models)


def read_recipe(path: str | Path, **overrides: Any) -> Recipe:
    """Read a recipe from a YAML file.

    Args:
        path: YAML file.
        overrides: Top-level fields that replace those of the file, unless they are None.

    Raises:
        DatasetError: Unreadable file, or unknown fields or invalid values; all are listed.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    return make_recipe(read_yaml(path) | given)


def make_recipe(values: Mapping[str, Any]) -> Recipe:
    """Create a recipe from plain values, as in a YAML file.

    Raises:
        DatasetError: Unknown or missing fields, or invalid values; all are listed.
    """
    return make_record(Recipe, values)
