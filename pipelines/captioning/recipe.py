"""The recipe of a run: a YAML file, checked as a whole before anything starts."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from dataset_builders.errors import DatasetError
from dataset_builders.yaml_records import Record, make_record, read_yaml

from .errors import CaptioningError
from .records import Task, View

AtLeastOne = Annotated[int, Field(ge=1)]


@dataclass(frozen=True)
class Component:
    """Something chosen by name, with options of its own; a plain text is a name."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)


class GenerateSettings(Record):
    """The long captions.

    Attributes:
        captions_per_model: Captions of each image.
        temperature: Temperatures of the captions in turn; repeated if there are fewer.
        top_p: Nucleus of the sampling.
        max_tokens: Longest answer.
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
    """The salient boxes: `segmenter`, a name in `kit.PARTS`."""

    segmenter: Component = Component("felzenszwalb")


class FilterSettings(Record):
    """Which phrases the image supports.

    Attributes:
        parser: Parser of sentences, a name in `kit.PARTS`.
        detector: Detector of phrases, a name in `kit.PARTS`.
        threshold: Phrases that score below it are dropped.
    """

    parser: Component = Component("spacy")
    detector: Component = Component("owlv2")
    threshold: float = 0.01


class ConsensusSettings(Record):
    """Which caption is kept.

    Attributes:
        weights: Alpha, beta and gamma of CAPTURE, for objects, attributes and relations.
        encoder: Embeds phrases, see `encoder.sentence_encoder`.
    """

    weights: tuple[float, float, float] = (5.0, 5.0, 2.0)
    encoder: str = "sentence-transformers/all-MiniLM-L6-v2"


class PrivacySettings(Record):
    """Personal data.

    Attributes:
        blur: Whether faces and number plates are made unreadable in what is sent to "remote"
            models (those on another machine), "always", or "never".
        detector: "package.module:callable" that finds the boxes; OpenCV's cascades by default.
        redact: Remove e-mail addresses, telephone and plate numbers from captions.
    """

    blur: Literal["remote", "always", "never"] = "remote"
    detector: str | None = None
    redact: bool = True


class RunSettings(Record):
    """How the work is divided and paced; nothing here changes a result.

    Attributes:
        images_per_shard: Images that a process takes at a time.
        images_in_flight: Images that a process works on at once; memory grows with it.
        gallery_size: Images shown in the report.
    """

    images_per_shard: AtLeastOne = 256
    images_in_flight: AtLeastOne = 32
    gallery_size: int = 48


class Recipe(Record):
    """A run.

    Attributes:
        dataset_name: Folder or Hub id of a dataset in this project's layout, or a folder of images.
        output_dir: Folder of the run: ledgers, candidates, report.
        models: A mapping per model; see `clients.open_model`. Their order is priority in ties.
        cities: Cities of the dataset; all by default. For a folder of images, the city's name.
        views: Views of the dataset; all by default. A folder of images has one.
        max_images: Use only the first images of each table.
        seed: Seed of all sampling.
        synthetic: The models or the images are simulated; reports say so.
        prompts: `{task: {view: text}}` instead of the prompts of `prompts`.
        filters: What drops images and captions: names, or `{name: options}`; see `filters`.
        refine: Check the captions against the image and rewrite them. Without it (an ablation, or
            a cheap run) the consensus is that of the captions as first written.
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
        """Names of the models in order of priority."""
        return tuple(model["name"] for model in self.models)

    def outcome_fields(self) -> dict[str, Any]:
        """Everything that a result depends on, and nothing else."""
        return self.model_dump(exclude={"output_dir", "run", "models"})


def read_recipe(path: str | Path, **overrides: Any) -> Recipe:
    """Read a recipe.

    Args:
        path: YAML file.
        overrides: Top-level fields that replace those of the file; those that are None do not.

    Raises:
        CaptioningError: No such file, not YAML, unknown fields, or wrong values; all are listed.
    """
    try:
        values = read_yaml(path)
    except DatasetError as error:
        raise CaptioningError(str(error)) from error
    values |= {name: value for name, value in overrides.items() if value is not None}
    return make_recipe(values)


def make_recipe(values: Mapping[str, Any]) -> Recipe:
    """A recipe from plain values, as in a YAML file.

    Raises:
        CaptioningError: Unknown or missing fields, or wrong values; all are listed.
    """
    try:
        return make_record(Recipe, values)
    except DatasetError as error:
        raise CaptioningError(str(error)) from error
