"""Model cards of a model and of its LoRA adapter, generated from the files of a run."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from dataset_builders.files import WrittenFiles

from ..common.errors import InputError
from .runs import FIGURES, SUMMARY, Run

TEMPLATES = Path(__file__).with_name("templates")
CARD_FILE, FILES_KIND = "README.md", "card"
ADAPTER_FOLDER = "adapter"
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
LICENCE = "apache-2.0"
SIGLIP = "urbanln_sig"  # model_type of UrbanLNSiglipModel
PAPER = "https://arxiv.org/abs/2511.07062"
USES = {"random": "interpolation", "block": "new districts", "city": "new cities"}
SHOWN_ARGUMENTS = (
    *("per_device_train_batch_size", "gradient_accumulation_steps", "learning_rate"),
    *("weight_decay", "num_train_epochs", "max_train_steps", "lr_scheduler_type", "warmup_steps"),
    *("distillation_weight", "momentum", "queue_size", "position_mode", "caption_sampling"),
    *("split_column", "mixed_precision", "seed"),
)
RECALLS = ("image_to_text_recall_at_1", "text_to_image_recall_at_1", "chance_recall_at_1")
LIMITS = """\
- Embeddings describe what images show; they are not facts about the people who live there. Do not
  use them for decisions on individuals, nor on neighbourhoods without review by local experts.
- Street views show people, licence plates and homes. Blur them before publishing images, and do not
  publish captions that name or count persons.
- Scores under `random` splits measure interpolation: neighbours of the test regions are in the
  training set, and coordinates alone may score as high. See the `block` rows for new districts.
- Cities and districts differ: results may not transfer between them, in particular where images
  are few or old. Indicators have the errors of their sources.
- Text is truncated at the number of tokens stated above."""


def write_model_card(run: Run, repo_id: str, folder: Path | None = None) -> Path:
    """Write the model card (README.md) of a run, and copy its figures.

    Args:
        run: Run, see [`read_run`].
        repo_id: "org/name" of the model.
        folder: Folder of the card. Defaults to the run's.

    Returns:
        Path of the card.

    Raises:
        ForeignFileError: If a README.md or figure to replace was not written by this function, or
            was edited.
    """
    files = WrittenFiles(folder or run.folder, FILES_KIND)
    names = {f"{FIGURES}/{figure.name}": figure for figure in run.figures}
    files.check([CARD_FILE, *names])
    for name, figure in names.items():
        with files.writing(name) as temporary:
            shutil.copyfile(figure, temporary)
    card = ModelCard.from_template(
        _data(run, repo_id),
        str(TEMPLATES / "model_card.md.j2"),
        run=run,
        backbone=_backbone(run),
        repo_id=repo_id,
        name=repo_id.split("/")[-1],
        paper=PAPER,
        uses=USES,
        recalls=[name for name in RECALLS if name in run.retrieval],
        arguments=[name for name in SHOWN_ARGUMENTS if name in run.arguments],
        limits=LIMITS,
    )
    with files.writing(CARD_FILE) as temporary:
        card.save(temporary)
    return files.root / CARD_FILE


def _data(run: Run, repo_id: str) -> ModelCardData:
    results = list(_eval_results(run)) or None
    synthetic = ["synthetic"] * run.synthetic
    dataset, base = run.summary.get("dataset_name"), run.arguments.get("model_name_or_path")
    return ModelCardData(
        language="en",
        license=LICENCE,
        library_name="transformers",
        base_model=base if is_hub_id(base) else None,
        pipeline_tag="image-feature-extraction",
        tags=["urban", "geospatial", _backbone(run).lower(), "urbanln", *synthetic],
        datasets=[str(dataset)] if is_hub_id(dataset) else None,
        model_name=repo_id.split("/")[-1] if results else None,
        eval_results=results,
    )


def _backbone(run: Run) -> str:
    return "SigLIP" if run.config.get("model_type") == SIGLIP else "CLIP"


def is_hub_id(name: Any) -> bool:
    """Whether a name has the form "org/name" and is not a local folder."""
    has_form = isinstance(name, str) and re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name)
    return bool(has_form) and not Path(name).exists()


def _eval_results(run: Run) -> Iterator[EvalResult]:
    """Results of the model with those of the control; other systems are in the text only."""
    for city in run.cities:
        said = " (synthetic)" if city.synthetic else ""
        for (protocol, view, system, indicator), score in city.scores.items():
            if system != city.model:
                continue
            control = city.scores[protocol, "none", "coordinates", indicator]
            gain = city.gain(protocol, view, indicator, "coordinates")
            yield EvalResult(
                task_type="tabular-regression",
                task_name="urban indicators from region embeddings",
                dataset_type="urbanln",
                dataset_name=f"{city.city}{said}",
                dataset_config=f"{city.city}-regions",
                dataset_split=protocol,
                metric_type="r2",
                metric_name=f"R2 of {indicator}, {view}, ridge, mean of {score.seeds} splits",
                metric_value=round(score.mean, 4),
                metric_args={
                    "sd": round(score.sd, 4),
                    "n_test": round(score.n_test),
                    "r2_of_coordinates_only": round(control.mean, 4),
                    "difference_ci95": [round(gain.low, 4), round(gain.high, 4)] if gain else None,
                },
            )


def write_adapter_card(run: Path, repo_id: str, path: Path) -> None:
    """Write the model card of the LoRA adapter of a run.

    Args:
        run: Output folder of `train.py --lora_rank`.
        repo_id: "org/name" of the adapter.
        path: Path of the card.

    Raises:
        InputError: If there is no adapter.
    """
    folder = run / ADAPTER_FOLDER
    missing = [name for name in ADAPTER_FILES if not (folder / name).exists()]
    if missing:
        raise InputError(
            f"{folder} lacks {', '.join(missing)}: it is not an adapter. `train.py --lora_rank 8` "
            "trains one."
        )
    config = json.loads((folder / ADAPTER_FILES[0]).read_text(encoding="utf-8"))
    model_type = json.loads((run / "config.json").read_text(encoding="utf-8"))["model_type"]
    base = config.get("base_model_name_or_path") or ""
    base = base if is_hub_id(base) else Path(base).name
    data = ModelCardData(
        license=LICENCE,
        library_name="peft",
        base_model=base if is_hub_id(base) else None,
        tags=["urban", "geospatial", "lora", model_type],
    )
    summary_path = run / SUMMARY
    summary = json.loads(summary_path.read_text(encoding="utf-8")) if summary_path.exists() else {}
    ModelCard.from_template(
        data,
        str(TEMPLATES / "adapter_card.md.j2"),
        repo_id=repo_id,
        name=repo_id.split("/")[-1],
        base=base,
        config=config,
        summary=summary,
        limits=LIMITS,
    ).save(path)


__all__ = [
    "ADAPTER_FILES",
    "ADAPTER_FOLDER",
    "CARD_FILE",
    "LICENCE",
    "TEMPLATES",
    "is_hub_id",
    "write_adapter_card",
    "write_model_card",
]
