"""The card of a model, made of its run: nothing on it is written by hand."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from dataset_builders.files import WrittenFiles

from .runs import FIGURES, Run
from .scores import CONTROLS, CityScores, Gain, Score

CARD_FILE, FILES_KIND = "README.md", "card"
LICENCE = "apache-2.0"
PAPER = "https://arxiv.org/abs/2511.07062"
USES = {"random": "interpolation", "block": "new districts", "city": "new cities"}
SHOWN_ARGUMENTS = (
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "learning_rate",
    "weight_decay",
    "num_train_epochs",
    "max_train_steps",
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
- Cities differ, and so do districts: what was learnt in one may be wrong in another, the more so
  where pictures are few or old. Indicators carry the errors of their sources.
- Text is cut at the number of tokens stated above; a caption's end may be unseen."""


def write_model_card(run: Run, repo_id: str, folder: Path | None = None) -> Path:
    """Write the card of a run (README.md), and the figures it shows beside it.

    Args:
        run: see [`read_run`].
        repo_id: "org/name", as the examples name the model.
        folder: of the card; the run's by default.

    Returns:
        The path of the card.

    Raises:
        ForeignFileError: there is a README.md or a figure that was not written so, or was edited.
    """
    files = WrittenFiles(folder or run.folder, FILES_KIND)
    names = {f"{FIGURES}/{figure.name}": figure for figure in run.figures}
    files.check([CARD_FILE, *names])
    for name, figure in names.items():
        with files.writing(name) as temporary:
            shutil.copyfile(figure, temporary)
    card = ModelCard(f"---\n{_data(run, repo_id).to_yaml()}\n---\n\n{_text(run, repo_id)}\n")
    with files.writing(CARD_FILE) as temporary:
        card.save(temporary)
    return files.root / CARD_FILE


def _data(run: Run, repo_id: str) -> ModelCardData:
    results = list(_eval_results(run)) or None
    dataset, base = run.summary.get("dataset_name"), run.arguments.get("model_name_or_path")
    return ModelCardData(
        language="en",
        license=LICENCE,
        library_name="transformers",
        base_model=base if is_hub_id(base) else None,
        pipeline_tag="image-feature-extraction",
        tags=["urban", "geospatial", "clip", "urbanln", *["synthetic"] * run.synthetic],
        datasets=[str(dataset)] if is_hub_id(dataset) else None,
        model_name=repo_id.split("/")[-1] if results else None,
        eval_results=results,
    )


def is_hub_id(name: Any) -> bool:
    """Whether it has the form of "org/name" and is no folder here."""
    has_form = isinstance(name, str) and re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name)
    return bool(has_form) and not Path(name).exists()


def _eval_results(run: Run) -> Iterator[EvalResult]:
    """The model's own rows, each with its control and interval; all others stand in the text."""
    for city in run.cities:
        said = " (synthetic)" if city.synthetic else ""
        for (protocol, view, system, indicator), score in city.scores.items():
            if system != city.model:
                continue
            control = city.scores[protocol, "none", "coordinates", indicator]
            gain = city.gain(system, protocol, view, indicator, "coordinates")
            yield EvalResult(
                task_type="tabular-regression",
                task_name="urban indicators from region vectors",
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
        *[_ablation(city) for city in run.cities],
        _figures(run),
        _exports(run, repo_id),
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
        f"{run.config.get('projection_dim')} numbers out. Averaged over the images of a region, "
        "vectors are what light probes predict population, GDP and the like from."
    )


def _use(repo_id: str) -> str:
    return f"""## Use

```python
from PIL import Image
from transformers import pipeline

picture = Image.new("RGB", (256, 256), "gray")  # yours: an image, a path, an address or bytes
regions = pipeline("urban-region-feature-extraction", model="{repo_id}", trust_remote_code=True)
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
```

The model comes with its code, which `trust_remote_code=True` lets run: read it first, and give a
`revision` (a commit) to be sure that it stays what you have read."""


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
        "predicted (ln(y + 1) of counts, densities and intensities). Controls: `mean` and "
        "`coordinates` (nearest neighbours on the map) see no picture; drawn weights see it "
        "untrained. Below the model: its R2 less that of a control, with the 95 % interval of a "
        "paired bootstrap over blocks of regions; where the interval holds 0, nothing is shown to "
        "be better."
    )
    for protocol in city.protocols:
        for view in city.views:
            lines += ["", f"**{protocol}** ({USES.get(protocol, protocol)}), {view}:", ""]
            lines += [f"| system | {' | '.join(city.indicators)} |"]
            lines += ["|---" * (len(city.indicators) + 1) + "|"]
            for system in city.systems(protocol, view):
                cells = [_cell(city, protocol, view, system, one) for one in city.indicators]
                lines.append(f"| {_title(city, system)} | {' | '.join(cells)} |")
            lines += _gain_lines(city, protocol, view)
            tested = [_score(city, protocol, view, city.model, one) for one in city.indicators]
            counts = [f"{one.n_test:.0f}" if one else "" for one in tested]
            lines.append(f"| *regions tested* | {' | '.join(counts)} |")
    return "\n".join(lines)


def _title(city: CityScores, system: str) -> str:
    if system == city.model:
        count = city.trainings.get(system, 1)
        return f"**{system}** (this model{f', {count} trainings' if count > 1 else ''})"
    return f"{system} (control)" if system in CONTROLS or system in city.untrained else system


def _score(city: CityScores, protocol: str, view: str, system: str, indicator: str) -> Score | None:
    own = "none" if system in CONTROLS else view
    return city.scores.get((protocol, own, system, indicator))


def _cell(city: CityScores, protocol: str, view: str, system: str, indicator: str) -> str:
    score = _score(city, protocol, view, system, indicator)
    return "" if score is None else f"{score.mean:.2f} ± {score.sd:.2f}"


def _gain_lines(city: CityScores, protocol: str, view: str) -> Iterator[str]:
    cells = [(city.model, protocol, view, one) for one in city.indicators]
    known = [gain.reference for cell in cells for gain in city.gains.get(cell, [])]
    for reference in dict.fromkeys(known):
        said = [_gain(city.gain(*cell, reference)) for cell in cells]
        yield f"| *less {reference}* | {' | '.join(said)} |"


def _gain(gain: Gain | None) -> str:
    return "" if gain is None else f"{gain.estimate:+.2f} [{gain.low:+.2f}, {gain.high:+.2f}]"


def _ablation(city: CityScores) -> str:
    if not city.variants:
        return ""
    said = " (synthetic)" if city.synthetic else ""
    lines = [
        f"## Ablation: {city.city}{said}",
        "",
        "One thing taken away at a time, each trained anew: R2 as above, and R2 less that of the "
        f"whole method (`{city.model}`) with its 95 % interval. The controls are those above.",
        "",
    ]
    lines += [
        f"- `{name}`: {differs or 'see its settings'}" for name, differs in city.variants.items()
    ]
    for protocol in city.protocols:
        for view in city.views:
            lines += ["", f"**{protocol}**, {view}:", ""]
            lines += [f"| system | trainings | {' | '.join(city.indicators)} |"]
            lines += ["|---" * (len(city.indicators) + 2) + "|"]
            for name in (city.model, *city.variants):
                cells = [
                    " ".join(
                        [
                            _cell(city, protocol, view, name, one),
                            _gain(city.gain(name, protocol, view, one, city.model)),
                        ]
                    ).strip()
                    for one in city.indicators
                ]
                lines.append(f"| {name} | {city.trainings.get(name, 1)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _figures(run: Run) -> str:
    if not run.figures:
        return ""
    said = " (synthetic)" if run.synthetic else ""
    names = [figure.name for figure in run.figures]
    shown = [f"![{n.removesuffix('.png')}{said}]({FIGURES}/{n})" for n in names]
    return "\n\n".join([f"## Figures{said}", *shown])


def _exports(run: Run, repo_id: str) -> str:
    if not run.exports:
        return ""
    lines = [
        "## Exports",
        "",
        "Each file was run beside the model in torch (float32) on the same inputs. The cosine and "
        "the difference are of vectors of unit length, the worst that was met.",
        "",
        "| file | cosine, at least | difference, at most | vectors | made of |",
        "|---|--:|--:|--:|---|",
    ]
    for one in run.exports:
        lines.append(
            f"| `{one['file']}` | {one['min_cosine']:.6f} | {one['max_difference']:.1e} "
            f"| {one['vectors']} | {one['on']} |"
        )
    files = [one["file"] for one in run.exports]
    if "sentence_transformers" in files:
        lines += ["", "The folder for sentence-transformers holds the weights again; make it with"]
        lines += ["`python -m pipelines.release export`, it is not in this repository."]
    graph = next((name for name in ("onnx/vision_model.onnx",) if name in files), None)
    if graph is not None:
        lines += ["", _onnx_example(repo_id, graph)]
    return "\n".join(lines)


def _onnx_example(repo_id: str, graph: str) -> str:
    return f"""Without torch:

```python
import onnxruntime
from huggingface_hub import hf_hub_download
from PIL import Image
from transformers import CLIPImageProcessorPil

processor = CLIPImageProcessorPil.from_pretrained("{repo_id}")
pixels = processor(images=[Image.new("RGB", (256, 256), "gray")], return_tensors="np")
session = onnxruntime.InferenceSession(hf_hub_download("{repo_id}", "{graph}"))
vectors = session.run(["image_embeds"], {{"pixel_values": pixels["pixel_values"]}})[0]
```"""


def _cost(run: Run) -> str:
    if "seconds" not in run.summary:
        return ""
    seconds, processes = run.summary["seconds"], run.summary.get("num_processes", 1)
    device = run.summary.get("device", "not recorded")
    return (
        "## Environmental cost\n\n"
        f"Training took {seconds:,.0f} s in {processes} process(es); device: {device}. Captions "
        "and evaluation are not in that figure; energy was not measured."
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


__all__ = ["CARD_FILE", "LICENCE", "LIMITS", "is_hub_id", "write_model_card"]
