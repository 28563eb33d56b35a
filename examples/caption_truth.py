"""Evaluate caption refinement and consensus against the ground truth of a *synthetic* city.

    python -m examples.caption_truth --grid_size 8
    python -m examples.caption_truth --miss_rate 0.05 --false_alarm_rate 0.4
    python -m examples.caption_truth --local_hallucination 1

Builds a synthetic city and captions its images with `configs/captioning/synthetic.yaml`: five
*simulated* captioning models that omit and hallucinate at known rates, real segmentation, parser,
filters and consensus, and a *simulated* detector with given error rates. Each caption is compared
with the ground truth (`examples.simulated_judge`). Intervals are paired bootstraps over images.
"""

import argparse
import tempfile
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import yaml
from numpy.typing import NDArray

from dataset_builders.synthetic import build_dataset
from pipelines.captioning.inputs import list_shards
from pipelines.captioning.ledger import ShardFolder
from pipelines.captioning.recipe import Recipe, make_recipe
from pipelines.captioning.records import Candidate
from pipelines.captioning.run import run
from pipelines.captioning.simulated import LOCAL_HALLUCINATION
from pipelines.captioning.simulated.truth import ImageTruth, open_truth
from pipelines.captioning.tables import read_candidates

from .simulated_judge import Judgement, judge

RECIPE = Path(__file__).resolve().parent.parent / "configs" / "captioning" / "synthetic.yaml"
VIEWS = ("street_view", "satellite")
RESAMPLES = 4000

Floats = NDArray[np.float64]


class Judged(NamedTuple):
    """Judgements of a candidate before and after refinement."""

    model: str
    chosen: bool
    dropped: bool
    before: Judgement
    after: Judgement


class Difference(NamedTuple):
    """Estimate with its 95 % interval."""

    value: float
    low: float
    high: float

    def text(self, form: str) -> str:
        """Format as text, such as "+0.051 [+0.040, +0.062]"."""
        return f"{self.value:{form}} [{self.low:{form}}, {self.high:{form}}]"


def judged_images(
    candidates: Sequence[Candidate], truth_of: Callable[[str], ImageTruth]
) -> dict[str, list[list[Judged]]]:
    """Judge all candidates, grouped by view and image."""
    found: dict[str, list[list[Judged]]] = {view: [] for view in VIEWS}
    for image_id, group in groupby(candidates, key=lambda one: one.image_id):
        truth = truth_of(image_id)
        judged = []
        for one in group:
            before, after = judge(one.generated, truth), judge(one.text, truth)
            judged.append(Judged(one.model, one.chosen, bool(one.drop_reason), before, after))
        found[truth.view].append(judged)
    return found


def refinement(images: Sequence[Sequence[Judged]]) -> dict[str, Any]:
    """Effect of refinement on all candidates that took part in the consensus.

    Returns:
        `captions`; before and after: `rate` (hallucinated share of the objects named) and `recall`
        (share of the true objects that are named); [`Difference`]s: `cut` (share of the
        hallucinated objects that were removed), `net_loss` (relative decrease in the number of true
        objects named), `gross_loss` (share of those named before that are not named after).
    """
    counts = np.array([np.sum([_counts(one) for one in image], axis=0) for image in images], float)
    false, true, missed, false_after, true_after, missed_after, _ = counts.sum(axis=0)
    return {
        "captions": sum(not one.dropped for image in images for one in image),
        "rate": (false / (false + true), false_after / (false_after + true_after)),
        "recall": (true / (true + missed), true_after / (true_after + missed_after)),
        "cut": bootstrap(counts, lambda sums: 1 - sums[:, 3] / sums[:, 0]),
        "net_loss": bootstrap(counts, lambda sums: 1 - sums[:, 4] / sums[:, 1]),
        "gross_loss": bootstrap(counts, lambda sums: sums[:, 6] / sums[:, 1]),
    }


def _counts(one: Judged) -> list[int]:
    """Numbers of false, true and missed objects before and after, and of true objects lost."""
    if one.dropped:
        return [0] * 7
    found = [len(v) for j in (one.before, one.after) for v in (j.false, j.true, j.missed)]
    return [*found, len(one.before.true - one.after.true)]


def choices(images: Sequence[Sequence[Judged]]) -> dict[str, tuple[float, Difference]]:
    """Mean F1 of strategies to choose a caption, and the gain of consensus over each.

    Images without a chosen candidate are left out.
    """
    kept = [[one for one in image if not one.dropped] for image in images]
    kept = [image for image in kept if any(one.chosen for one in image)]
    scores: dict[str, list[Any]] = {
        "consensus": [next(one.after.f1 for one in image if one.chosen) for image in kept],
        "random choice": [np.mean([one.after.f1 for one in image]) for image in kept],
        "random choice, not refined": [np.mean([one.before.f1 for one in image]) for image in kept],
    }
    singles: dict[str, list[Any]] = {}
    for model in sorted({one.model for image in kept for one in image}):
        # mean F1 of its captions; NaN if all were dropped
        own = [[one.after.f1 for one in image if one.model == model] for image in kept]
        singles[model] = [np.mean(f1) if f1 else np.nan for f1 in own]
    best = max(singles, key=lambda model: float(np.nanmean(singles[model])))
    for model, f1 in singles.items():
        scores[f"only {model}" + (" (best single model)" if model == best else "")] = f1
    scores["oracle"] = [max(one.after.f1 for one in image) for image in kept]
    found = {}
    for name, f1 in scores.items():
        gains = np.array(scores["consensus"]) - f1
        known = gains[~np.isnan(gains), None]
        gain = bootstrap(known / len(known), lambda sums: sums[:, 0])
        found[name] = (float(np.nanmean(f1)), gain)
    return found


def bootstrap(rows: Floats, statistic: Callable[[Floats], Floats]) -> Difference:
    """Bootstrap a statistic of sums over images.

    Args:
        rows: Summands per image, `(images, n)`.
        statistic: Function from sums `(resamples, n)` to values `(resamples,)`.
    """
    rng = np.random.default_rng(0)
    weights = rng.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size=RESAMPLES)
    with np.errstate(divide="ignore", invalid="ignore"):  # denominators may be 0 in a resample
        low, high = np.nanquantile(statistic(weights @ rows), (0.025, 0.975))
        value = statistic(rows.sum(axis=0)[None])[0]
    return Difference(float(value), float(low), float(high))


def synthetic_recipe(
    dataset: Path,
    output_dir: Path,
    detector: Mapping[str, float],
    models: Mapping[str, float] | None = None,
    max_images: int | None = None,
) -> Recipe:
    """Recipe of a run with simulated models.

    Args:
        dataset: Synthetic dataset with its ground truth.
        output_dir: Output folder of the run.
        detector: Options of the simulated detector, such as its error rates.
        models: Options of all simulated models.
        max_images: Maximum number of images per table.
    """
    values = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    values |= {
        "dataset_name": str(dataset),
        "output_dir": str(output_dir),
        "max_images": max_images,
    }
    values["models"] = [one | dict(models or {}) for one in values["models"]]
    values["filter"]["detector"] = {"name": "simulated", "options": dict(detector)}
    return make_recipe(values)


def candidates_of(recipe: Recipe) -> list[Candidate]:
    """All candidates of a finished run, grouped by image."""
    paths = [ShardFolder(recipe.output_dir, shard).candidates for shard in list_shards(recipe)]
    return list(read_candidates(paths))


def report(images: Mapping[str, Sequence[Sequence[Judged]]]) -> str:
    """Format the results as tables."""
    effects, strategies = [], []
    for view, groups in images.items():
        one = refinement(groups)
        effect: dict[str, Any] = {"view": view, "images": len(groups), "captions": one["captions"]}
        for name, title in (("rate", "hallucinated share"), ("recall", "recall")):
            effect[f"{title}, before -> after"] = "{:.3f} -> {:.3f}".format(*one[name])
        effect["hallucinations removed"] = one["cut"].text(".1%")
        effect["true objects lost, net"] = one["net_loss"].text("+.1%")
        effects.append({**effect, "lost, gross": one["gross_loss"].text(".1%")})
        for name, (f1, gain) in choices(groups).items():
            line = {"view": view, "caption chosen by": name, "mean F1": f"{f1:.4f}"}
            strategies.append({**line, "gain of consensus": gain.text("+.4f")})
    frames = (pd.DataFrame(effects).set_index("view").T, pd.DataFrame(strategies))
    heading = "*Synthetic* city, *simulated* captioning models and detector."
    return "\n\n".join([heading, *(frame.to_string() for frame in frames)])


def main(argv: Sequence[str] | None = None) -> None:
    """Build a city, caption its images and print the results."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.caption_truth",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--grid_size", type=int, default=8, help="regions of 1 km per side")
    add("--street_views", type=int, default=1, help="street views per region")
    add("--seed", type=int, default=0, help="seed of the city and of the detector")
    detected = "of the simulated detector"
    add("--miss_rate", type=float, default=0.03, help=f"miss rate {detected}")
    add("--false_alarm_rate", type=float, default=0.2, help=f"false alarm rate {detected}")
    ratio = "hallucination rate of short captions relative to long ones"
    add("--local_hallucination", type=float, default=LOCAL_HALLUCINATION, help=ratio)
    add("--work_dir", type=Path, help="folder in which the run is kept")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        root = args.work_dir or Path(temporary)
        dataset = build_dataset(
            root / "city",
            grid_size=args.grid_size,
            street_views=args.street_views,
            seed=args.seed,
            with_masks=True,
            num_workers=1,
            progress=True,
        )
        names = ("miss_rate", "false_alarm_rate", "seed")
        detector = {name: getattr(args, name) for name in names}
        models = {"local_hallucination": args.local_hallucination}
        recipe = synthetic_recipe(dataset, root / "captions", detector, models)
        run(recipe, progress=True)
        truth = open_truth(str(dataset))
        images = judged_images(candidates_of(recipe), lambda image_id: truth[image_id])
    print(report(images))


if __name__ == "__main__":
    main()
