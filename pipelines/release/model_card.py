"""The card of a model, made of its run: nothing on it is written by hand."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from .runs import CONTROLS, CityScores, Run, Score

CARD_FILE = "README.md"
LICENCE = "apache-2.0"
PAPER = "https://arxiv.org/abs/2511.07062"
HUB_LICENCES = ("apache-2.0", "mit", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "odbl")
USES = {"random": "interpolation", "block": "new districts", "city": "new cities"}
SHOWN_ARGUMENTS = (
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "learning_rate",
    "weight_decay",
    "num_train_epochs",
    "lr_scheduler_type",
    "warmup_steps",
    "distillation_weight",
    "momentum",
    "queue_size",
    "position_mode",
    "caption_sampling",
    "split_column",
    "mixed_precision",
    "seed",
)
LIMITS = """\
- Vectors describe what pictures show; they are not facts about the people who live there. Not for
  decisions on individuals, nor on neighbourhoods without review by people who know them.
- Street views show people, plates and homes. Blur them before you publish pictures, and do not
  publish captions that name or count persons.
- A score under `random` splits is interpolation: neighbours of the test regions are in training,
  and coordinates alone may do as well. Read the `block` rows for districts that were never seen.
- Cities differ: what was learnt in one may be wrong in another, and indicators carry the errors of
  their sources.
- Text is cut at the number of tokens stated above; a caption's end may be unseen."""


def write_model_card(run: Run, repo_id: str, path: Path | None = None) -> Path:
    """Write the card of a run.

    Args:
        run: see [`read_run`].
        repo_id: "org/name", as the examples name the model.
        path: of the card; README.md in the run's folder by default.

    Returns:
        Its path.
    """
    path = path or run.folder / CARD_FILE
    card = ModelCard(f"---\n{_data(run, repo_id).to_yaml()}\n---\n\n{_text(run, repo_id)}\n")
    card.save(path)
    return path


def _data(run: Run, repo_id: str) -> ModelCardData:
    results = list(_eval_results(run)) or None
    dataset = run.summary.get("dataset_name")
    datasets = [str(dataset)] if _is_hub_id(dataset) else None
    return ModelCardData(
        language="en",
        license=LICENCE,
        library_name="transformers",
        pipeline_tag="image-feature-extraction",
        tags=["urban", "geospatial", "clip", "urbanln", *["synthetic"] * run.synthetic],
        datasets=datasets,
        model_name=repo_id.split("/")[-1] if results else None,
        eval_results=results,
    )


def _is_hub_id(name: Any) -> bool:
    return isinstance(name, str) and name.count("/") == 1 and not Path(name).exists()


def _eval_results(run: Run) -> Iterator[EvalResult]:
    """The model's own rows; the controls stand in the table of the text."""
    for city in run.cities:
        said = " (synthetic)" if city.synthetic else ""
        for (protocol, view, system, indicator), score in city.scores.items():
            if system in CONTROLS or "random-init" in system:
                continue
            yield EvalResult(
                task_type="tabular-regression",
                task_name=f"{indicator}, {protocol} split, {view}",
                dataset_type="urbanln",
                dataset_name=f"{city.city}{said}",
                dataset_config=f"{city.city}-regions",
                dataset_split=protocol,
                metric_type="r2",
                metric_name=f"R2, ridge, mean of {score.seeds} splits, {system}",
                metric_value=round(score.mean, 4),
            )


def _text(run: Run, repo_id: str) -> str:
    name = repo_id.split("/")[-1]
    warning = (
        "> **Synthetic.** This model was trained or measured on simulated cities: it shows that "
        "the code works, and is of no use on real pictures.\n\n"
    ) * run.synthetic
    parts = [
        f"# {name}\n\n{warning}{_introduction(run)}",
        _use(repo_id),
        _training(run),
        *[_scores(city) for city in run.cities],
        f"## Limits and misuse\n\n{LIMITS}",
        _cost(run),
        _citation(),
    ]
    return "\n\n".join(part for part in parts if part)


def _introduction(run: Run) -> str:
    text, vision = run.config.get("text_config", {}), run.config.get("vision_config", {})
    return (
        f"UrbanLN ([paper]({PAPER})): CLIP with text of {text.get('max_position_embeddings', 248)} "
        "tokens, pretrained on city images and long captions with momentum self-distillation. "
        f"Images of {vision.get('image_size')} pixels in; a vector of "
        f"{run.config.get('projection_dim')} numbers out. Averaged over the images of a region it "
        "predicts population, GDP and the like by a light probe."
    )


def _use(repo_id: str) -> str:
    return f"""## Use

```python
from PIL import Image
from transformers import pipeline

task = "urban-region-feature-extraction"
regions = pipeline(task, model="{repo_id}", trust_remote_code=True)
picture = Image.new("RGB", (256, 256), "gray")  # yours
vector = regions({{"satellite": picture, "street_view": [picture, picture]}})["satellite"]
```

```python
from PIL import Image
from transformers import AutoModel, AutoProcessor

model = AutoModel.from_pretrained("{repo_id}", trust_remote_code=True)
processor = AutoProcessor.from_pretrained("{repo_id}", trust_remote_code=True)
pictures, texts = [Image.new("RGB", (256, 256), "gray")], ["low houses along a railway", "a park"]
inputs = processor(images=pictures, text=texts, return_tensors="pt")
similarity = model(**inputs).logits_per_image.softmax(dim=-1)  # text search, zero-shot
```"""


def _training(run: Run) -> str:
    summary = run.summary
    if not summary:
        return ""
    data = run.dataset
    lines = ["## Training", ""]
    if data is not None:
        lines += [f"- Data: {data.title}. {data.description}"]
        lines += [f"- Source of the data: {data.source}. Licence: {data.licence or 'not stated'}."]
    lines += [
        f"- Pairs: {summary['num_train']:,} to train on, {summary['num_validation']:,} to "
        f"validate, {summary['num_rejected']:,} left out.",
        f"- Images of which regions: {_seen(summary)}.",
        f"- Captions cut at {summary['max_length']} tokens: {summary['num_truncated_captions']:,} "
        f"({summary['truncation_rate']:.1%}); the longest has "
        f"{summary['longest_caption_tokens']:,}.",
        f"- Weights: {summary['num_parameters'] / 1e6:.1f} million, "
        f"{summary['num_trained_parameters'] / 1e6:.1f} million of them trained, "
        f"{summary['steps']:,} steps.",
    ]
    if run.retrieval:
        shown = ("image_to_text_recall_at_1", "text_to_image_recall_at_1", "chance_recall_at_1")
        known = [name for name in shown if name in run.retrieval]
        said = ", ".join(
            f"{name.replace('_recall_at_1', '').replace('_', ' ')} {run.retrieval[name]:.3f}"
            for name in known
        )
        lines.append(f"- Retrieval on validation, recall@1: {said}.")
    shown_arguments = [name for name in SHOWN_ARGUMENTS if name in run.arguments]
    if shown_arguments:
        lines += ["", "| hyper-parameter | value |", "|---|---|"]
        lines += [f"| `{name}` | {run.arguments[name]} |" for name in shown_arguments]
    return "\n".join(lines)


def _seen(summary: dict[str, Any]) -> str:
    column = summary.get("split_column", "none")
    if column == "none":
        return "all of the dataset; those that are tested were seen in pretraining, without labels"
    return f"those in training of `{column}`; no picture of a tested region was seen"


def _scores(city: CityScores) -> str:
    said = " (synthetic)" if city.synthetic else ""
    lines = [f"## Scores: {city.city}{said}", ""]
    lines.append(
        "R2 of a ridge probe on frozen vectors, mean ± SD over splits, on the scale that is "
        "predicted (ln(y + 1) of counts). `mean` and `coordinates` see no picture."
    )
    views = [view for view in dict.fromkeys(v for _, v, _, _ in city.scores) if view != "none"]
    for protocol in city.protocols:
        for view in views:
            lines += ["", f"**{protocol}** ({USES.get(protocol, protocol)}), {view}:", ""]
            lines += [f"| system | {' | '.join(city.indicators)} |"]
            lines += ["|---" * (len(city.indicators) + 1) + "|"]
            for system in city.systems(protocol, view):
                cells = [_cell(city, protocol, view, system, one) for one in city.indicators]
                lines.append(f"| {system} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(city: CityScores, protocol: str, view: str, system: str, indicator: str) -> str:
    own = "none" if system in CONTROLS else view
    score: Score | None = city.scores.get((protocol, own, system, indicator))
    return "" if score is None else f"{score.mean:.2f} ± {score.sd:.2f}"


def _cost(run: Run) -> str:
    if "seconds" not in run.summary:
        return ""
    seconds, processes = run.summary["seconds"], run.summary.get("num_processes", 1)
    device = run.summary.get("device", "not recorded")
    return (
        "## Environmental cost\n\n"
        f"Training took {seconds:,.0f} s in {processes} process(es); device: {device}. Captions "
        "and evaluation are not in that figure."
    )


def _citation() -> str:
    return f"""## Citation

```bibtex
@article{{zhang2025urbanln,
  title = {{Improving Region Representation Learning from Urban Imagery with Noisy Long-Caption
           Supervision}},
  author = {{Zhang, Yimei and Shen, Guojiang and Ning, Kaili and Ren, Tongwei and Qiu, Xuebo and
            Wang, Mengmeng and Kong, Xiangjie}},
  journal = {{arXiv preprint arXiv:2511.07062}},
  year = {{2025}},
  url = {{{PAPER}}}
}}
```"""


__all__ = ["CARD_FILE", "write_model_card"]
