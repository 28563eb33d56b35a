"""What a run is told: a YAML file, checked whole before anything starts."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from dataset_builders.errors import DatasetError
from dataset_builders.yaml_records import make_record, read_yaml

from .errors import CaptioningError


@dataclass(frozen=True)
class Component:
    """Something that is chosen by name and made with options of its own."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class GenerateSettings:
    """The long captions.

    Attributes:
        captions_per_model: of each image.
        temperature: of the captions in turn; the list is gone through again if it is shorter.
        top_p: nucleus of the sampling.
        max_tokens: of an answer.
        prompt_variants: how many wordings of the prompt are used in turn.
    """

    captions_per_model: int = 3
    temperature: tuple[float, ...] = (0.2, 0.7, 0.9)
    top_p: float = 0.95
    max_tokens: int = 400
    prompt_variants: int = 1


@dataclass(frozen=True)
class SegmentSettings:
    """The salient boxes, and their short captions.

    Attributes:
        segmenter: by name, see `segment.open_segmenter`.
        boxes: options of `segment.salient_boxes`.
        max_tokens: of a short caption.
        temperature: of a short caption.
    """

    segmenter: Component = Component("felzenszwalb")
    boxes: Mapping[str, Any] = field(default_factory=dict)
    max_tokens: int = 64
    temperature: float = 0.2


@dataclass(frozen=True)
class FilterSettings:
    """Which phrases the image supports.

    Attributes:
        parser: of sentences, see `scene_graph.open_parser`.
        detector: of phrases, see `detectors.open_detector`.
        mode: "independent" (a phrase's own score) or "reference" (arg-max within the sentence).
        threshold: below it a phrase is dropped.
    """

    parser: Component = Component("spacy")
    detector: Component = Component("owlv2")
    mode: Literal["independent", "reference"] = "independent"
    threshold: float = 0.01


@dataclass(frozen=True)
class MergeSettings:
    """The refined caption: `max_tokens` and `temperature` of its answer."""

    max_tokens: int = 500
    temperature: float = 0.0


@dataclass(frozen=True)
class ConsensusSettings:
    """Which caption is kept.

    Attributes:
        weights: alpha, beta, gamma of CAPTURE, for objects, attributes, relations.
        encoder: of phrases, see `encoder.sentence_encoder`.
        stop_words: words that are no visual elements: "urban", "reference" or "none".
        same_model_pairs: let captions of one model vote for one another.
    """

    weights: tuple[float, float, float] = (5.0, 5.0, 2.0)
    encoder: str = "sentence-transformers/all-MiniLM-L6-v2"
    stop_words: Literal["urban", "reference", "none"] = "urban"
    same_model_pairs: bool = True


@dataclass(frozen=True)
class PrivacySettings:
    """Personal data.

    Attributes:
        blur: faces and number plates, in what is sent to "remote" models (those on another
            machine), "always", or "never".
        detector: "package.module:callable" that finds the boxes; OpenCV's cascades by default.
        redact: e-mail addresses, telephone and plate numbers are taken out of captions.
    """

    blur: Literal["remote", "always", "never"] = "remote"
    detector: str | None = None
    redact: bool = True


@dataclass(frozen=True)
class RunSettings:
    """How the work is cut and paced; nothing here changes a result.

    Attributes:
        images_per_shard: the unit that a machine leases.
        images_in_flight: images a process works on at once; memory grows with it.
        one_model_at_a_time: finish a model's requests of all shards before the next is loaded.
            Default: if any model runs in this process.
        lease_timeout_s: a machine that gives no sign of life for so long loses its shard.
        gallery_size: images shown in the report.
    """

    images_per_shard: int = 256
    images_in_flight: int = 32
    one_model_at_a_time: bool | None = None
    lease_timeout_s: float = 120.0
    gallery_size: int = 48


@dataclass(frozen=True)
class Recipe:
    """A run.

    Attributes:
        dataset_name: a dataset folder, a folder of images, or the id of a dataset on the Hub.
        output_dir: where the run lives: ledgers, candidates, report.
        models: a mapping for each model; see `clients.open_model`. Order is priority in ties.
        cities: of the dataset; all by default. For a folder of images, the name of its city.
        views: of the dataset; all by default. A folder of images has one.
        image_column: of a Hub dataset in another layout.
        id_column: of a Hub dataset in another layout; rows are numbered by default.
        split: of a Hub dataset in another layout.
        max_images: of each table, the first ones.
        seed: of all sampling.
        synthetic: the models or the images are simulated, and reports have to say so.
        prompts: further prompt templates by name, see `prompts.load_prompts`.
        filters: what keeps images and captions out, as names or `{name: options}`; see `filters`.
        refine: check the captions against the image and rewrite them; without it (an ablation, or a
            cheap run) the consensus is that of the captions as they were first written.
    """

    dataset_name: str
    output_dir: str
    models: tuple[Mapping[str, Any], ...]
    cities: tuple[str, ...] | None = None
    views: tuple[str, ...] | None = None
    image_column: str = "image"
    id_column: str | None = None
    split: str = "train"
    max_images: int | None = None
    seed: int = 0
    synthetic: bool = False
    prompts: Mapping[str, Any] = field(default_factory=dict)
    filters: tuple[Any, ...] = ("default",)
    refine: bool = True
    generate: GenerateSettings = GenerateSettings()
    segment: SegmentSettings = SegmentSettings()
    filter: FilterSettings = FilterSettings()
    merge: MergeSettings = MergeSettings()
    consensus: ConsensusSettings = ConsensusSettings()
    privacy: PrivacySettings = PrivacySettings()
    run: RunSettings = RunSettings()

    def __post_init__(self) -> None:
        if not self.models:
            raise CaptioningError("A recipe needs at least one model; `models` is empty.")
        unnamed = [model for model in self.models if not model.get("name")]
        if unnamed:
            raise CaptioningError(f"Every model needs a `name`; these have none: {unnamed}.")
        names = [model["name"] for model in self.models]
        if len(set(names)) < len(names):
            raise CaptioningError(f"Two models have one name: {sorted(names)}.")
        for name, value, least in (
            ("generate.captions_per_model", self.generate.captions_per_model, 1),
            ("generate.prompt_variants", self.generate.prompt_variants, 1),
            ("run.images_per_shard", self.run.images_per_shard, 1),
            ("run.images_in_flight", self.run.images_in_flight, 1),
            ("len(generate.temperature)", len(self.generate.temperature), 1),
        ):
            if value < least:
                raise CaptioningError(f"`{name}` must be {least} or more, got {value}.")

    @property
    def model_names(self) -> tuple[str, ...]:
        """In the order of the recipe, which is their priority."""
        return tuple(model["name"] for model in self.models)

    def outcome_fields(self) -> dict[str, Any]:
        """All that a result depends on, and nothing else."""
        values = asdict(self)
        for name in ("output_dir", "run", "models"):
            del values[name]
        return values


def read_recipe(path: str | Path, **overrides: Any) -> Recipe:
    """Read a recipe.

    Args:
        path: of the YAML file.
        overrides: top-level fields that win over it; those that are None do not.

    Raises:
        CaptioningError: no such file, not YAML, an unknown field, or a value of the wrong kind.
    """
    try:
        values = read_yaml(path)
    except DatasetError as error:
        raise CaptioningError(str(error)) from error
    values |= {name: value for name, value in overrides.items() if value is not None}
    return make_recipe(values)


def make_recipe(values: Mapping[str, Any]) -> Recipe:
    """A recipe from plain values, as a YAML file has them.

    Raises:
        CaptioningError: an unknown or missing field, or a value of the wrong kind.
    """
    try:
        return make_record(Recipe, values)
    except DatasetError as error:
        raise CaptioningError(str(error)) from error


def with_output_dir(recipe: Recipe, output_dir: str | Path) -> Recipe:
    """The same recipe in another folder."""
    return replace(recipe, output_dir=str(output_dir))


__all__ = [
    "Component",
    "ConsensusSettings",
    "FilterSettings",
    "GenerateSettings",
    "MergeSettings",
    "PrivacySettings",
    "Recipe",
    "RunSettings",
    "SegmentSettings",
    "make_recipe",
    "read_recipe",
    "with_output_dir",
]
