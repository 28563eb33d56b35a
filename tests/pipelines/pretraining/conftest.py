"""A tiny dataset and the flags of a tiny run."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import datasets
import numpy as np
import pytest
from accelerate.state import AcceleratorState
from PIL import Image
from transformers import CLIPImageProcessor

from modeling_urbanln import UrbanLNProcessor
from pipelines.common.tokenizer import clip_tokenizer

COLOURS = ("red", "green", "blue", "white", "black", "yellow", "orange", "purple")
PLACES = ("a park", "a wide road", "tall offices", "small houses", "a river", "a factory")
TINY_MODEL = (
    '{"text_config": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,'
    ' "num_attention_heads": 4}, "vision_config": {"hidden_size": 32, "intermediate_size": 64,'
    ' "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 32, "patch_size": 16},'
    ' "projection_dim": 16}'
)


def encoded_image(seed: int, side: int = 32) -> bytes:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (4, 4, 3)).repeat(side // 4, 0).repeat(side // 4, 1)
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, format="PNG")
    return buffer.getvalue()


def long_caption(seed: int, sentences: int) -> str:
    rng = np.random.default_rng(seed)
    return " ".join(
        f"There is {rng.choice(PLACES)} with {rng.integers(1, 9)} {rng.choice(COLOURS)} cars."
        for _ in range(sentences)
    )


def image_rows(n: int, seed: int = 0, regions: int = 6) -> list[dict]:
    return [
        {
            "image": {"bytes": encoded_image(seed + i), "path": None},
            "image_id": f"image-{i:04d}",
            "region_id": f"region-{i % regions}",
            "caption": long_caption(seed + i, 1 + i % 9),
        }
        for i in range(n)
    ]


def write_dataset(
    root: Path,
    images: list[dict],
    table: str = "harborview-street_view",
    splits: dict[str, str | None] | None = None,
    features: datasets.Features | None = None,
) -> Path:
    """Write an image table and a table of regions with splits, without a card."""
    text = datasets.Value("string")
    features = features or datasets.Features(
        {"image": datasets.Image(), "image_id": text, "region_id": text, "caption": text}
    )
    city = table.split("-")[0]
    splits = splits or {f"region-{i}": "train" if i < 4 else "validation" for i in range(6)}
    regions = {"region_id": list(splits), "split_block": list(splits.values())}
    columns = {name: [row.get(name) for row in images] for name in features}
    tables = {
        table: datasets.Dataset.from_dict(columns, features=features),
        f"{city}-regions": datasets.Dataset.from_dict(
            regions,
            features=datasets.Features({"region_id": text, "split_block": text}),
        ),
    }
    for name, content in tables.items():
        (root / "data" / name).mkdir(parents=True, exist_ok=True)
        content.to_parquet(root / "data" / name / "part-00000.parquet")
    return root


SCORES = (0.6, 0.3, 0.1)


def candidate_rows(n: int, texts: int = 3) -> list[dict]:
    """Three kept candidates per image, of one, two and three sentences, and one rejected."""
    made = []
    for i in range(n):
        for k in range(texts):
            text = " ".join([f"Candidate {k} of image {i}."] * (k + 1))
            made.append(
                {"image_id": f"image-{i:04d}", "text": text, "score": SCORES[k], "kept": True}
            )
        made.append({"image_id": f"image-{i:04d}", "text": "Dropped.", "score": 0.9, "kept": False})
    return made


def write_candidates(root: Path, made: list[dict], city: str = "harborview") -> Path:
    text = datasets.Value("string")
    kinds = {
        "image_id": text,
        "text": text,
        "score": datasets.Value("float64"),
        "kept": datasets.Value("bool"),
        "view": text,
    }
    names = [name for name in kinds if name in made[0]]
    folder = root / "data" / f"{city}-captions"
    folder.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_dict(
        {name: [row[name] for row in made] for name in names},
        features=datasets.Features({name: kinds[name] for name in names}),
    ).to_parquet(folder / "part-00000.parquet")
    return root


@pytest.fixture(autouse=True)
def _fresh_accelerate():
    """Reset accelerate's global state for each run."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="session")
def tokenizer():
    return clip_tokenizer()


@pytest.fixture(scope="session")
def processor(tokenizer):
    images = CLIPImageProcessor(size={"height": 16, "width": 16}, do_center_crop=False)
    return UrbanLNProcessor(images, tokenizer)


@pytest.fixture(scope="session")
def candidates_dir(tmp_path_factory) -> Path:
    root = write_dataset(tmp_path_factory.mktemp("several"), image_rows(40))
    return write_candidates(root, candidate_rows(40))


@pytest.fixture(scope="session")
def pairs_dir(tmp_path_factory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("pairs"), image_rows(48))


@pytest.fixture(scope="session")
def tiny_flags_factory(pairs_dir: Path) -> Callable[..., list[str]]:
    """Flags of a run with two batches of 8 per step and 2 steps per epoch."""

    def flags(output_dir: Path, dataset: Path = pairs_dir, more: Sequence[str] = ()) -> list[str]:
        return [
            *("--config_overrides", TINY_MODEL, "--queue_size", "20"),
            *("--dataset_name", str(dataset), "--output_dir", str(output_dir)),
            *("--per_device_train_batch_size", "8", "--gradient_accumulation_steps", "2"),
            *("--validation_split_percentage", "20", "--learning_rate", "1e-3", "--use_cpu"),
            *("--num_train_epochs", "4", "--logging_steps", "1", "--eval_steps", "2"),
            *("--checkpointing_steps", "3", "--seed", "3"),
            *more,
        ]

    return flags


@pytest.fixture
def tiny_flags(tiny_flags_factory, pairs_dir: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """The same with further flags, which override them."""

    def flags(*more: str, dataset: Path = pairs_dir, output_dir: Path | None = None) -> list[str]:
        return tiny_flags_factory(output_dir or tmp_path / "out", dataset, more)

    return flags
