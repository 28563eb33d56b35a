"""Train `models/urbanln-base-synthetic`, the small CLIP checkpoint that the quickstart adapts.

    python -m examples.synthetic_base --output_dir FOLDER --work_dir runs/base

Renders twelve simulated cities, used nowhere else in the project, with true captions; trains a CLIP
with 77 text positions on them (`configs/base_synthetic.yaml`); and saves it in CLIP's format in
float16 with a model card. Rerun the command to resume. About an hour on two cores.
"""

import argparse
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

from dataset_builders.synthetic import build_dataset
from dataset_builders.synthetic.styles import STYLES
from modeling_urbanln import UrbanLNModel
from pipelines.common.tokenizer import clip_tokenizer
from pipelines.pretraining.arguments import parse_arguments
from pipelines.pretraining.loop import pretrain

SEEDS = (101, 102, 103)
CITIES = tuple(f"{style}-{seed}" for seed in SEEDS for style in STYLES)
GRID_SIZE = 30
RECIPE = "configs/base_synthetic.yaml"
CARD = Path(__file__).with_name("synthetic_base_card.md.j2")
WEIGHTS = "model.safetensors"
CLIP_POSITIONS = 77


def to_clip(model: UrbanLNModel) -> CLIPModel:
    """Convert to a `CLIPModel` in float16."""
    fields: dict[str, Any] = {
        name: getattr(model.config, name).to_dict() for name in ("text_config", "vision_config")
    }
    fields["text_config"].pop("model_type", None)
    clip = CLIPModel(CLIPConfig(**fields, projection_dim=model.config.projection_dim))
    clip.load_state_dict(model.state_dict())
    return clip.half()


def write_base(run: Path, output_dir: Path) -> None:
    """Write a trained run as a CLIP checkpoint with its card."""
    clip = to_clip(UrbanLNModel.from_pretrained(run))
    clip.save_pretrained(output_dir)
    vision: Any = clip.config.vision_config
    side = vision.image_size
    images = CLIPImageProcessor(size={"height": side, "width": side}, do_center_crop=False)
    CLIPProcessor(images, clip_tokenizer(CLIP_POSITIONS)).save_pretrained(output_dir)
    card = ModelCard.from_template(
        ModelCardData(license="apache-2.0", library_name="transformers", tags=["synthetic"]),
        template_path=str(CARD),
        cities=", ".join(CITIES),
        grid_size=GRID_SIZE,
        recipe=RECIPE,
        sha256=hashlib.sha256((output_dir / WEIGHTS).read_bytes()).hexdigest(),
        **_measured(run),
    )
    card.save(output_dir / "README.md")


def _measured(run: Path) -> dict[str, Any]:
    summary = json.loads((run / "training_summary.json").read_text(encoding="utf-8"))
    log = [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]
    best = next(row for row in log if row["step"] == summary["best_step"] and "mean_recall" in row)
    return {"summary": summary, "retrieval": best}


def main(argv: Sequence[str] | None = None) -> None:
    """Build the dataset, train, and write the checkpoint."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output_dir", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument(
        "--work_dir", type=Path, required=True, help="folder of the dataset and the training run"
    )
    args = parser.parse_args(argv)
    dataset, run = args.work_dir / "dataset", args.work_dir / "run"
    build_dataset(
        dataset,
        CITIES,
        grid_size=GRID_SIZE,
        street_views=1,
        caption_source="reference",
        progress=True,
    )
    flags = ["--config", RECIPE, "--dataset_name", str(dataset), "--output_dir", str(run)]
    pretrain(parse_arguments(flags))
    write_base(run, args.output_dir)


if __name__ == "__main__":
    main()
