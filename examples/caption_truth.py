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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

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


@dataclass(frozen=True)
class Judged:
    """A candidate, judged.

    Attributes:
        model: who wrote it.
        chosen: by the consensus.
        dropped: it took no part in the consensus.
        before: the caption as the model first wrote it.
        after: the refined one.
    """

    model: str
    chosen: bool
    dropped: bool
    before: Judgement
    after: Judgement


@dataclass(frozen=True)
class Difference:
    """An estimate and its 95 % interval."""

    value: float
    low: float
    high: float

    def text(self, form: str) -> str:
        """Such as "+0.051 [+0.040, +0.062]"."""
        return f"{self.value:{form}} [{self.low:{form}}, {self.high:{form}}]"


@dataclass(frozen=True)
class Refinement:
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


@dataclass(frozen=True)
class Choice:
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
        found[truth.view].append(
            [
                Judged(
                    one.model,
                    one.chosen,
                    bool(one.drop_reason),
                    judge(one.generated, truth),
                    judge(one.text, truth),
                )
                for one in group
            ]
        )
    return found


def refinement(images: Sequence[Sequence[Judged]]) -> Refinement:
    """Counts over all candidates that took part in the consensus."""
    # columns: false, true, missed before; the same after; true things lost
    counts = np.array(
        [
            np.sum(
                [
                    [
                        *_counts(one.before),
                        *_counts(one.after),
                        len(one.before.true - one.after.true),
                    ]
                    for one in image
                    if not one.dropped
                ],
                axis=0,
            )
            for image in images
        ],
        dtype=np.float64,
    )
    total = counts.sum(axis=0)
    return Refinement(
        captions=sum(not one.dropped for image in images for one in image),
        rate=(total[0] / (total[0] + total[1]), total[3] / (total[3] + total[4])),
        recall=(total[1] / (total[1] + total[2]), total[4] / (total[4] + total[5])),
        cut=bootstrap(counts, lambda sums: 1 - sums[:, 3] / sums[:, 0]),
        net_loss=bootstrap(counts, lambda sums: 1 - sums[:, 4] / sums[:, 1]),
        gross_loss=bootstrap(counts, lambda sums: sums[:, 6] / sums[:, 1]),
    )


def choices(images: Sequence[Sequence[Judged]]) -> list[Choice]:
    """Consensus against other ways to choose, on images that have a choice."""
    kept = [[one for one in image if not one.dropped] for image in images]
    kept = [image for image in kept if any(one.chosen for one in image)]
    consensus = np.array([next(one.after.f1 for one in image if one.chosen) for image in kept])
    ways: dict[str, Floats] = {
        "consensus": consensus,
        "random choice": np.array([np.mean([one.after.f1 for one in image]) for image in kept]),
        "random choice, not refined": np.array(
            [np.mean([one.before.f1 for one in image]) for image in kept]
        ),
    }
    singles = dict(_singles(kept))
    best = max(sorted(singles), key=lambda model: float(np.nanmean(singles[model])))
    for model, scores in singles.items():
        ways[f"only {model}" + (" (the best single one)" if model == best else "")] = scores
    ways["oracle"] = np.array([max(one.after.f1 for one in image) for image in kept])
    return [_choice(name, scores, consensus) for name, scores in ways.items()]


def _singles(images: Sequence[Sequence[Judged]]) -> Iterator[tuple[str, Floats]]:
    """Expected F1 of any of a model's captions of each image; NaN where all were dropped."""
    for model in sorted({one.model for image in images for one in image}):
        scores = [[one.after.f1 for one in image if one.model == model] for image in images]
        yield model, np.array([np.mean(own) if own else np.nan for own in scores])


def _choice(name: str, scores: Floats, consensus: Floats) -> Choice:
    both = ~np.isnan(scores)
    gains = (consensus - scores)[both][:, None]
    count = len(gains)
    gain = bootstrap(gains, lambda sums: sums[:, 0] / count)
    return Choice(name, float(np.nanmean(scores)), gain)


def _counts(one: Judgement) -> tuple[int, int, int]:
    return len(one.false), len(one.true), len(one.missed)


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


# ---- the run ------------------------------------------------------------------------------------


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
    parser.add_argument("--grid_size", type=int, default=8, help="regions of 1 km a side")
    parser.add_argument("--street_views", type=int, default=1, help="street views a region")
    parser.add_argument("--seed", type=int, default=0, help="of the city and of the detector")
    parser.add_argument("--miss_rate", type=float, default=0.03, help="of the simulated detector")
    parser.add_argument(
        "--false_alarm_rate", type=float, default=0.2, help="of the simulated detector"
    )
    parser.add_argument(
        "--local_hallucination",
        type=float,
        default=LOCAL_HALLUCINATION,
        help="rate of made-up things in short captions over that in long ones",
    )
    parser.add_argument("--work_dir", type=Path, default=None, help="keep the run here")
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
        detector = {
            "miss_rate": args.miss_rate,
            "false_alarm_rate": args.false_alarm_rate,
            "seed": args.seed,
        }
        models = {"local_hallucination": args.local_hallucination}
        recipe = synthetic_recipe(dataset, root / "captions", detector, models)
        run(recipe, progress=True)
        truth = open_truth(str(dataset))
        images = judged_images(candidates_of(recipe), lambda image_id: truth[image_id])
    print(report(images, args.miss_rate, args.false_alarm_rate, args.local_hallucination))


if __name__ == "__main__":
    main()
