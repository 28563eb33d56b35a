"""Command-line arguments of embed_captions, retrieve and zero_shot."""

from dataclasses import dataclass
from typing import Literal

from pipelines.common.command_line import argument

from ..errors import InputError

EXAMPLES = {
    "embed_captions": """\
Embed the captions of each region, without images: OUTPUT_DIR/CITY/LABEL.parquet, for
`evaluate.py probe`.

  python evaluate.py embed_captions --dataset_name runs/quickstart/dataset --city harborview \\
      --output_dir runs/embeddings                    TF-IDF, label captions-tfidf
  python evaluate.py embed_captions --encoder text_tower --model_name_or_path M \\
      --dataset_name runs/quickstart/dataset --city harborview --output_dir runs/embeddings
""",
    "retrieve": """\
Measure retrieval between images, captions and regions: recall at 1, 5 and 10 and median rank, with
the chance level, in OUTPUT_DIR/CITY/retrieval-VIEW-LABEL.json and .md. With --query, search regions
by text: OUTPUT_DIR/CITY/search/, as CSV, GeoJSON and an HTML page with images.

  python evaluate.py retrieve --model_name_or_path runs/quickstart/model \\
      --dataset_name runs/quickstart/dataset --city harborview --view satellite \\
      --output_dir runs/retrieval
  python evaluate.py retrieve ... --query "old low-rise housing beside a railway" --top 10

Image embeddings are cached. The search is exact; if several images share a caption, each of them
is a correct result.
""",
    "zero_shot": """\
Classify regions by text prompts, without labels. Scores: OUTPUT_DIR/CITY/zero-shot-LABEL.csv, and
.parquet for `evaluate.py probe`. Spearman correlations with the indicators named in the prompts,
with a permutation test: zero-shot-LABEL.md and .json.

  python evaluate.py zero_shot --model_name_or_path runs/quickstart/model \\
      --dataset_name runs/quickstart/dataset --city harborview --output_dir runs/zero_shot
  python evaluate.py zero_shot ... --prompts my_prompts.yaml     like configs/zero_shot/prompts.yaml

Scores reflect the biases of the model's training data.
""",
}


@dataclass
class _CityArguments:
    dataset_name: str = argument("", "Folder or Hub id of a dataset.")
    city: str = argument("", "City of the dataset.")
    output_dir: str = argument("", "Output folder; files go to OUTPUT_DIR/CITY/.")
    model_name_or_path: str | None = argument(
        None, "Folder or Hub id of an UrbanLN, CLIP or other image-text checkpoint."
    )
    label: str | None = argument(
        None, "Name of the system in tables and files. Default: name of the checkpoint."
    )
    batch_size: int = argument(32, "Images or texts per batch.")
    device: str | None = argument(None, "cpu, cuda, cuda:1, mps. Default: an available one.")
    trust_remote_code: bool = argument(False, "Allow code from the checkpoint.")


@dataclass
class EmbedCaptionsArguments(_CityArguments):
    """Flags of `evaluate.py embed_captions`."""

    label: str | None = argument(
        None, "Name of the system in tables. Default: captions-tfidf or captions-text-tower."
    )
    encoder: Literal["tfidf", "text_tower"] = argument(
        "tfidf", "tfidf: TF-IDF with 256 SVD components; text_tower: text encoder of a checkpoint."
    )


@dataclass
class RetrieveArguments(_CityArguments):
    """Flags of `evaluate.py retrieve`."""

    view: Literal["satellite", "street_view"] = argument("satellite", "View of the images.")
    query: str | None = argument(None, "Search regions by this text instead of measuring.")
    top: int = argument(10, "Number of regions that a query returns.")
    num_workers: int | None = argument(None, "Image decoding threads. Default: as embed.")


@dataclass
class ZeroShotArguments(_CityArguments):
    """Flags of `evaluate.py zero_shot`."""

    prompts: str | None = argument(
        None, "YAML file of prompts. Default: configs/zero_shot/prompts.yaml."
    )
    num_workers: int | None = argument(None, "Image decoding threads. Default: as embed.")


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
        raise InputError("--model_name_or_path is missing: an image-text checkpoint.")
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
