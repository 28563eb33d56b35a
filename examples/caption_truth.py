"""What refinement and consensus are worth where the truth is known: the *synthetic* city.

    python -m examples.caption_truth --grid_size 8
    python -m examples.caption_truth --miss_rate 0.05 --false_alarm_rate 0.4
    python -m examples.caption_truth --local_hallucination 1

Builds a synthetic city and sends its images through the whole pipeline of
`configs/captioning/synthetic.yaml`: five simulated captioners that leave out and make up at known
rates, real segmentation, parser, filter, guards and consensus, and a *simulated* detector with
stated error rates. Every caption is then judged against what was drawn
(`examples.simulated_judge`). Intervals are paired bootstraps over images.
"""

import argparse
import tempfile
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
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
    """A model's candidate, judged as first written and as refined; a dropped one had no vote."""

    model: str
    chosen: bool
    dropped: bool
    before: Judgement
    after: Judgement


class Difference(NamedTuple):
    """An estimate and its 95 % interval."""

    value: float
    low: float
    high: float

    def text(self, form: str) -> str:
        """Such as "+0.051 [+0.040, +0.062]"."""
        return f"{self.value:{form}} [{self.low:{form}}, {self.high:{form}}]"


class Refinement(NamedTuple):
    """What refinement did to the captions of some images.

    Attributes:
        captions: judged before and after.
        rate: share of what is not there among what is named, before and after.
        recall: share of what is there that is named, before and after.
        cut: of the things named that are not there, the share that is gone.
        net_loss: true things named after, as a share less than before; negative is a gain.
        gross_loss: of the true things named before, the share that is not named after.
    """

    captions: int
    rate: tuple[float, float]
    recall: tuple[float, float]
    cut: Difference
    net_loss: Difference
    gross_loss: Difference


class Choice(NamedTuple):
    """Mean F1 against the truth of a way to choose a caption, and what consensus has more."""

    name: str
    f1: float
    gain: Difference


def judged_images(
    candidates: Sequence[Candidate], truth_of: Callable[[str], ImageTruth]
) -> dict[str, list[list[Judged]]]:
    """All candidates, by view and image."""
    found: dict[str, list[list[Judged]]] = {view: [] for view in VIEWS}
    for image_id, group in groupby(candidates, key=lambda one: one.image_id):
        truth = truth_of(image_id)
        judged = []
        for one in group:
            before, after = judge(one.generated, truth), judge(one.text, truth)
            judged.append(Judged(one.model, one.chosen, bool(one.drop_reason), before, after))
        found[truth.view].append(judged)
    return found


def refinement(images: Sequence[Sequence[Judged]]) -> Refinement:
    """Counts over all candidates that took part in the consensus."""
    counts = np.array([np.sum([_counts(one) for one in image], axis=0) for image in images], float)
    false, true, missed, false_after, true_after, missed_after, _ = counts.sum(axis=0)
    return Refinement(
        captions=sum(not one.dropped for image in images for one in image),
        rate=(false / (false + true), false_after / (false_after + true_after)),
        recall=(true / (true + missed), true_after / (true_after + missed_after)),
        cut=bootstrap(counts, lambda sums: 1 - sums[:, 3] / sums[:, 0]),
        net_loss=bootstrap(counts, lambda sums: 1 - sums[:, 4] / sums[:, 1]),
        gross_loss=bootstrap(counts, lambda sums: sums[:, 6] / sums[:, 1]),
    )


def _counts(one: Judged) -> list[int]:
    """False, true and missed things before; the same after; true things lost."""
    if one.dropped:
        return [0] * 7
    found = [len(v) for j in (one.before, one.after) for v in (j.false, j.true, j.missed)]
    return [*found, len(one.before.true - one.after.true)]


def choices(images: Sequence[Sequence[Judged]]) -> list[Choice]:
    """Consensus against other ways to choose, on images that have a choice."""
    kept = [[one for one in image if not one.dropped] for image in images]
    kept = [image for image in kept if any(one.chosen for one in image)]
    scores: dict[str, list[Any]] = {
        "consensus": [next(one.after.f1 for one in image if one.chosen) for image in kept],
        "random choice": [np.mean([one.after.f1 for one in image]) for image in kept],
        "random choice, not refined": [np.mean([one.before.f1 for one in image]) for image in kept],
    }
    singles: dict[str, list[Any]] = {}
    for model in sorted({one.model for image in kept for one in image}):
        # expected F1 of any of its captions; NaN where all were dropped
        own = [[one.after.f1 for one in image if one.model == model] for image in kept]
        singles[model] = [np.mean(f1) if f1 else np.nan for f1 in own]
    best = max(singles, key=lambda model: float(np.nanmean(singles[model])))
    for model, f1 in singles.items():
        scores[f"only {model}" + (" (the best single one)" if model == best else "")] = f1
    scores["oracle"] = [max(one.after.f1 for one in image) for image in kept]
    return [_choice(name, np.array(f1), scores["consensus"]) for name, f1 in scores.items()]


def _choice(name: str, scores: Floats, consensus: Sequence[float]) -> Choice:
    gains = (consensus - scores)[~np.isnan(scores), None]
    gain = bootstrap(gains, lambda sums: sums[:, 0] / len(gains))
    return Choice(name, float(np.nanmean(scores)), gain)


def bootstrap(rows: Floats, statistic: Callable[[Floats], Floats]) -> Difference:
    """A statistic of sums over images, with its 95 % interval.

    Args:
        rows: `(images, n)`.
        statistic: of sums `(resamples, n)`, `(resamples,)`.
    """
    rng = np.random.default_rng(0)
    weights = rng.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size=RESAMPLES)
    with np.errstate(divide="ignore", invalid="ignore"):  # a resample may hold nothing to divide by
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
    """The recipe for simulated models.

    Args:
        dataset: a synthetic one with its truth.
        output_dir: of the run.
        detector: options of the simulated detector, such as its error rates.
        models: options of all simulated models.
        max_images: of each table.
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
    """All candidates of a finished run, those of an image together."""
    paths = [ShardFolder(recipe.output_dir, shard).candidates for shard in list_shards(recipe)]
    return list(read_candidates(paths))


def report(
    images: Mapping[str, Sequence[Sequence[Judged]]],
    miss_rate: float,
    false_alarm_rate: float,
    local_hallucination: float,
) -> str:
    """The tables, in Markdown."""
    errors = f"*simulated* detector: miss rate {miss_rate:g}, false alarm rate {false_alarm_rate:g}"
    lines = [
        f"Embedded *synthetic* city, *simulated* captioners (short captions make up "
        f"{local_hallucination:g} times as much as long ones), {errors}.",
        "",
        "| view (*synthetic*) | images | captions | made-up share of things named, before -> after "
        "| made-up things cut | recall of true things, before -> after | true things lost, net "
        "| lost, gross |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for view, groups in images.items():
        one = refinement(groups)
        lines.append(
            f"| {view} | {len(groups)} | {one.captions} | {one.rate[0]:.3f} -> {one.rate[1]:.3f} "
            f"| **{one.cut.text('.1%')}** | {one.recall[0]:.3f} -> {one.recall[1]:.3f} "
            f"| **{one.net_loss.text('+.1%')}** | {one.gross_loss.text('.1%')} |"
        )
    lines += [
        "",
        "| view (*synthetic*) | choice of a caption | mean F1 against the truth "
        "| consensus has more by |",
        "|---|---|---|---|",
    ]
    for view, groups in images.items():
        for choice in choices(groups):
            gain = "" if choice.name == "consensus" else choice.gain.text("+.4f")
            lines.append(f"| {view} | {choice.name} | {choice.f1:.4f} | {gain} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.caption_truth",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--grid_size", type=int, default=8, help="regions of 1 km per side")
    add("--street_views", type=int, default=1, help="street views per region")
    add("--seed", type=int, default=0, help="of the city and of the detector")
    add("--miss_rate", type=float, default=0.03, help="of the simulated detector")
    add("--false_alarm_rate", type=float, default=0.2, help="of the simulated detector")
    ratio = "rate of made-up things in short captions over that in long ones"
    add("--local_hallucination", type=float, default=LOCAL_HALLUCINATION, help=ratio)
    add("--work_dir", type=Path, help="keep the run here")
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
    print(report(images, args.miss_rate, args.false_alarm_rate, args.local_hallucination))


if __name__ == "__main__":
    main()
