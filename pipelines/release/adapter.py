"""The card of a LoRA adapter, made of its run."""

import json
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

from ..common.errors import InputError
from .model_card import LICENCE, LIMITS, is_hub_id
from .runs import SUMMARY

ADAPTER_FOLDER = "adapter"
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


def write_adapter_card(run: Path, repo_id: str, path: Path) -> None:
    """Write the card of the adapter that a training left beside its model.

    Args:
        run: the folder that `train.py --lora_rank` wrote.
        repo_id: "org/name", as the example names the adapter.
        path: of the card.

    Raises:
        InputError: there is no adapter.
    """
    folder = run / ADAPTER_FOLDER
    missing = [name for name in ADAPTER_FILES if not (folder / name).exists()]
    if missing:
        raise InputError(
            f"{folder} lacks {', '.join(missing)}: it is no adapter. `train.py --lora_rank 8` "
            "trains one."
        )
    config = json.loads((folder / ADAPTER_FILES[0]).read_text(encoding="utf-8"))
    model_type = json.loads((run / "config.json").read_text(encoding="utf-8"))["model_type"]
    base = config.get("base_model_name_or_path") or ""
    # a path of this machine says nothing to others
    base = base if is_hub_id(base) else Path(base).name
    data = ModelCardData(
        license=LICENCE,
        library_name="peft",
        base_model=base if is_hub_id(base) else None,
        tags=["urban", "geospatial", "lora", model_type],
    )
    ModelCard(f"---\n{data.to_yaml()}\n---\n\n{_text(run, repo_id, base, config)}\n").save(path)


def _text(run: Path, repo_id: str, base: str, config: dict[str, object]) -> str:
    summary_path = run / SUMMARY
    summary = json.loads(summary_path.read_text(encoding="utf-8")) if summary_path.exists() else {}
    trained = ""
    if summary:
        trained = (
            f" {summary['num_trained_parameters'] / 1e6:.2f} million weights, "
            f"{summary['steps']:,} steps, {summary['num_train']:,} pairs."
        )
    return f"""# {repo_id.split("/")[-1]}

A LoRA adapter (rank {config["r"]}, alpha {config["lora_alpha"]}) of UrbanLN, trained on top of \
`{base}`.{trained}

## Use

```python
from peft import PeftModel
from transformers import AutoModel

model = AutoModel.from_pretrained("{base}", trust_remote_code=True)
adapted = PeftModel.from_pretrained(model, "{repo_id}")
merged = adapted.merge_and_unload()  # a plain model again, as fast as before
```

Where the base is a CLIP of 77 tokens, stretch it first, as the training did:
`UrbanLNModel.from_clip_pretrained`.

## Limits and misuse

{LIMITS}"""


__all__ = ["ADAPTER_FILES", "ADAPTER_FOLDER", "write_adapter_card"]
