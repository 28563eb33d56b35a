"""Command-line arguments of embed_captions, retrieve and zero_shot."""

from dataclasses import dataclass
from typing import Literal

from pipelines.common.command_line import argument

from ..errors import InputError

EXAMPLES = {
    "embed_captions": """\
Make region vectors of captions alone, without a look at any image: OUTPUT_DIR/CITY/LABEL.parquet,
which `evaluate.py probe` takes beside those of embed.

  python evaluate.py embed_captions --dataset_name runs/quickstart/dataset --city harborview \\
      --output_dir runs/embeddings                    words: TF-IDF, label captions-tfidf
  python evaluate.py embed_captions --encoder text_tower --model_name_or_path M \\
      --dataset_name runs/quickstart/dataset --city harborview --output_dir runs/embeddings
""",
    "retrieve": """\
Does an image find its caption, a caption its image, a caption its region? Recall at 1, 5 and 10 and
median rank, beside chance: OUTPUT_DIR/CITY/retrieval-VIEW-LABEL.json and .md. Or search regions by
words: OUTPUT_DIR/CITY/search/, as CSV, GeoJSON and a page with the pictures.

  python evaluate.py retrieve --model_name_or_path runs/quickstart/model \\
      --dataset_name runs/quickstart/dataset --city harborview --view satellite \\
      --output_dir runs/retrieval
  python evaluate.py retrieve ... --query "old low-rise housing beside a railway" --top 10

Images are encoded once for all queries. The search is exact; a caption that several images have
may find any of them.
""",
    "zero_shot": """\
Score regions by prompts, with no label: OUTPUT_DIR/CITY/zero-shot-LABEL.csv, and .parquet, which
`evaluate.py probe` takes beside other tables; and Spearman with the indicators that the prompts
name, beside what shuffled labels give: zero-shot-LABEL.md and .json.

  python evaluate.py zero_shot --model_name_or_path runs/quickstart/model \\
      --dataset_name runs/quickstart/dataset --city harborview --output_dir runs/zero_shot
  python evaluate.py zero_shot ... --prompts my_prompts.yaml     like configs/zero_shot/prompts.yaml

A score is what pictures look like to the model, with the prejudices of what it has read.
""",
}


@dataclass
class _CityArguments:
    dataset_name: str = argument("", "Folder or Hub id of a dataset.")
    city: str = argument("", "City of the dataset.")
    output_dir: str = argument("", "Files go to OUTPUT_DIR/CITY/.")
    model_name_or_path: str | None = argument(
        None, "Folder or Hub id of an UrbanLN, CLIP or other image-text checkpoint."
    )
    label: str | None = argument(
        None, "Name of the system in tables and files. Default: the checkpoint's name."
    )
    batch_size: int = argument(32, "Images or texts that are encoded at a time.")
    device: str | None = argument(None, "cpu, cuda, cuda:1, mps. Default: what there is.")
    trust_remote_code: bool = argument(False, "Run code that comes with the checkpoint.")


@dataclass
class EmbedCaptionsArguments(_CityArguments):
    """Flags of `evaluate.py embed_captions`."""

    label: str | None = argument(
        None, "Name of the system in tables. Default: captions-tfidf or captions-text-tower."
    )
    encoder: Literal["tfidf", "text_tower"] = argument(
        "tfidf", "'tfidf': weighted words, 256 axes; 'text_tower': that of a checkpoint."
    )


@dataclass
class RetrieveArguments(_CityArguments):
    """Flags of `evaluate.py retrieve`."""

    view: Literal["satellite", "street_view"] = argument(
        "satellite", "The images that are searched."
    )
    query: str | None = argument(None, "Search regions by these words instead of measuring.")
    captions: Literal["own", "all"] = argument(
        "own", "'own': the caption beside each image; 'all': every kept one of the captions table."
    )
    top: int = argument(10, "How many regions a query shows.")
    num_workers: int | None = argument(None, "Threads that decode images. Default: as embed.")


@dataclass
class ZeroShotArguments(_CityArguments):
    """Flags of `evaluate.py zero_shot`."""

    prompts: str | None = argument(None, "A file like configs/zero_shot/prompts.yaml, the default.")
    num_workers: int | None = argument(None, "Threads that decode images. Default: as embed.")


LanguageArguments = EmbedCaptionsArguments | RetrieveArguments | ZeroShotArguments
COMMANDS: dict[str, type] = {
    "embed_captions": EmbedCaptionsArguments,
    "retrieve": RetrieveArguments,
    "zero_shot": ZeroShotArguments,
}


def check_model(arguments: LanguageArguments) -> None:
    """Raise `InputError` if a required checkpoint is missing or an unused one is given."""
    needs_one = not isinstance(arguments, EmbedCaptionsArguments) or arguments.encoder != "tfidf"
    if needs_one and arguments.model_name_or_path is None:
        raise InputError("--model_name_or_path is missing: the checkpoint whose towers are used.")
    if not needs_one and arguments.model_name_or_path is not None:
        raise InputError("--model_name_or_path needs --encoder text_tower: TF-IDF has no model.")


__all__ = [
    "COMMANDS",
    "EXAMPLES",
    "EmbedCaptionsArguments",
    "LanguageArguments",
    "RetrieveArguments",
    "ZeroShotArguments",
    "check_model",
]
