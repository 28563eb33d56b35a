"""Simulated models: deterministic answers with known error rates."""

import asyncio
import re
from dataclasses import replace

import numpy as np
import pytest

from dataset_builders.synthetic import build_dataset
from dataset_builders.synthetic.captioners import CAPTIONERS, STREET_FANCIES, phrase, reword
from examples.simulated_judge import judge
from pipelines.captioning.errors import CaptioningError
from pipelines.captioning.filters import Answer, Filters
from pipelines.captioning.records import (
    Box,
    CaptionModel,
    Reply,
    Request,
    Sampling,
    SourceImage,
    Task,
    View,
)
from pipelines.captioning.simulated import SimulatedDetector, open_model
from pipelines.captioning.simulated.models import REFUSAL
from pipelines.captioning.simulated.truth import Truth

THRESHOLD = 0.01
STREET, TILE = "harborview_001_001_sv0", "harborview_001_001_sat"


def _ask(model: CaptionModel, request: Request) -> Reply:
    return asyncio.run(model.complete(request))


def _request(task: Task = "describe", image_id: str = STREET, **fields) -> Request:
    view: View = "satellite" if image_id.endswith("_sat") else "street_view"
    sampling = Sampling(seed=fields.pop("seed", 0))
    return Request(task, "Describe.", b"", sampling, image_id, "0" * 64, view, **fields)


@pytest.fixture(scope="module")
def amber(city_with_truth) -> CaptionModel:
    return open_model({"name": "synthetic-amber"}, city_with_truth)


@pytest.fixture(scope="module")
def faultless(city_with_truth) -> CaptionModel:
    rates = ("omission", "hallucination", "refusal", "truncation", "disobedience", "forgetting")
    return open_model({"name": "synthetic-ember", **dict.fromkeys(rates, 0.0)}, city_with_truth)


def test_answers_are_deterministic_and_depend_on_the_seed(amber):
    first = _ask(amber, _request())
    assert _ask(amber, _request()) == first
    others = {_ask(amber, _request(seed=seed)).text for seed in range(5)}
    assert len(others) == 5
    assert _ask(amber, replace(_request(), prompt="Tell.")).text != first.text


@pytest.mark.parametrize("captioner", CAPTIONERS, ids=lambda one: one.name)
def test_long_captions_have_the_captioners_hallucination_rate(
    city_with_truth, truth: Truth, captioner
):
    model = open_model({"name": captioner.name}, city_with_truth)
    false = true = 0
    for image_id in truth:
        for seed in range(8):
            text = _ask(model, _request(image_id=image_id, seed=seed)).text
            assert 100 <= len(text.split()) <= 200
            found = judge(text, truth[image_id])
            false, true = false + len(found.false), true + len(found.true)
    assert false / (false + true) == pytest.approx(captioner.hallucination, rel=0.35)


def test_opening_option_replaces_the_opening(city_with_truth):
    name = "synthetic-amber"
    texts = {
        opening: _ask(open_model({"name": name, "opening": opening}, city_with_truth), _request())
        for opening in ("", "A photo.")
    }
    assert texts[""].text.startswith("The scene includes")
    assert texts["A photo."].text.startswith("A photo. The scene includes")


def test_rate_options_replace_the_rates(faultless, truth: Truth):
    for image_id in (STREET, TILE):
        found = judge(_ask(faultless, _request(image_id=image_id)).text, truth[image_id])
        assert not found.false | found.missed


def test_short_captions_describe_only_the_crop(faultless, truth: Truth):
    said: set[str] = set()
    for image_id in truth:
        one = truth[image_id]
        height, width = one.pixels.shape
        for box in (
            Box(0, 0, height // 2, width // 2),
            Box(height // 2, width // 2, height // 2, width // 2),
        ):
            text = _ask(faultless, _request("local", image_id, box=box)).text
            assert text.count(".") == 1
            assert len(text.split()) <= 30
            found = judge(text, one)
            assert found.false == frozenset()
            seen = {sight.thing for sight in one.sights(box)}
            assert found.true <= seen
            said |= found.true
    assert {"sky", "tree"} <= said
    assert "tree cover" in said


def test_merge_removes_rejected_phrases_and_adds_details(faultless):
    closing = CAPTIONERS[-1].closing
    caption = (
        f"{CAPTIONERS[-1].opening} It shows a sky that is grey. The frame contains a yellow tram. "
        f"It shows factory sheds behind fences on the left. {closing}"
    )
    details = ("This part shows a leafy tree and a sky that is grey.", "A wooden bench.")
    request = _request(
        "merge", caption=caption, details=details, rejected=("fence", "yellow tram", "dog")
    )
    text = _ask(faultless, request).text
    assert not re.search(r"tram|fence|dog", text)
    assert text.startswith(CAPTIONERS[-1].opening)
    assert text.endswith(closing)
    assert "factory sheds" in text
    assert "leafy tree" in text
    assert "wooden bench" in text.lower()
    assert text.count("a sky that is grey") == 1
    assert Filters().text_reason(Answer(text, original=caption)) == ""


def test_merge_fails_at_its_rates_and_filters_detect_it(city_with_truth):
    caption = _ask(
        open_model({"name": "synthetic-basalt"}, city_with_truth),
        _request(),
    ).text
    asked = _request("merge", caption=caption, rejected=("tram",))

    def answers(**rates: float) -> list[Reply]:
        model = open_model({"name": "synthetic-basalt", **rates}, city_with_truth)
        prompts = [replace(asked, prompt=str(number)) for number in range(60)]
        return [_ask(model, one) for one in prompts]

    refused = [one for one in answers(refusal=0.3) if one.text == REFUSAL]
    assert 8 <= len(refused) <= 30
    assert Filters().text_reason(Answer(REFUSAL)) == "refusal"
    cut = [one for one in answers(truncation=0.3, refusal=0.0) if one.finish_reason == "length"]
    assert 8 <= len(cut) <= 30
    assert all(len(one.text.split()) < len(caption.split()) for one in cut)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "qwen"}, "Unknown simulated captioner 'qwen'; available: synthetic-amber"),
        ({"name": "synthetic-amber", "temper": 1}, "options of .*'synthetic-amber': .*'temper'"),
        ({"name": "synthetic-amber", "omission": 1.5}, "`omission` of .* 1.0, got 1.5"),
        ({"name": "synthetic-amber", "hallucination": 0.6}, "`hallucination` of .* 0.5, got 0.6"),
    ],
)
def test_invalid_options_of_a_model_raise(city_with_truth, config, message):
    with pytest.raises(CaptioningError, match=message):
        open_model(config, city_with_truth)


def test_unknown_image_and_missing_ground_truth_raise(amber, tmp_path):
    with pytest.raises(CaptioningError, match="No ground truth for image 'elsewhere_sv0'"):
        _ask(amber, _request(image_id="elsewhere_sv0"))
    with pytest.raises(CaptioningError, match="has no truth/"):
        Truth(tmp_path)


def test_crops_without_masks_raise(tmp_path):
    build_dataset(tmp_path, grid_size=3, street_views=0, num_workers=1)
    with pytest.raises(CaptioningError, match="need a dataset built with --with_masks"):
        Truth(tmp_path)["harborview_001_001_sat"].sights(Box(0, 0, 9, 9))


def _source(image_id: str) -> SourceImage:
    view: View = "satellite" if image_id.endswith("_sat") else "street_view"
    return SourceImage(image_id, view, "0" * 64, b"")


def _scores(detector: SimulatedDetector, image_id: str, phrases: list[str]) -> np.ndarray:
    return detector.detect(_source(image_id), phrases)


@pytest.mark.parametrize("captioner", CAPTIONERS, ids=lambda one: one.name)
def test_detector_without_errors_separates_true_from_false_phrases(truth, captioner):
    detector = SimulatedDetector(truth, miss_rate=0, false_alarm_rate=0)
    for image_id in truth:
        one = truth[image_id]
        told = [reword(phrase(fact, one.view), captioner) for fact in one.facts]
        assert (_scores(detector, image_id, told) > THRESHOLD).all(), told
        if one.view == "street_view":
            lies = [fact for fact in STREET_FANCIES if fact.key not in one.things]
            made_up = [reword(phrase(fact, one.view), captioner) for fact in lies]
            assert (_scores(detector, image_id, made_up) < THRESHOLD).all(), made_up
            nouns = [fact.key for fact in lies]
            assert (_scores(detector, image_id, nouns) < THRESHOLD).all(), nouns


def test_detector_accepts_phrases_without_objects(truth: Truth):
    detector = SimulatedDetector(truth, miss_rate=1, false_alarm_rate=0)
    asked = ["overall composition", "picture", "detailed view"]
    assert (_scores(detector, "harborview_000_000_sv0", asked) > THRESHOLD).all()


def test_detector_errs_at_its_rates(truth: Truth):
    true = false = missed = alarms = 0
    for seed in range(20):
        detector = SimulatedDetector(truth, miss_rate=0.1, false_alarm_rate=0.3, seed=seed)
        for image_id in truth:
            if image_id.endswith("_sat"):
                continue
            things = truth[image_id].things
            lies = [fact.key for fact in STREET_FANCIES if fact.key not in things]
            alarms += int((_scores(detector, image_id, lies) >= THRESHOLD).sum())
            false += len(lies)
            facts = [phrase(fact, "street_view") for fact in truth[image_id].facts]
            missed += int((_scores(detector, image_id, facts) < THRESHOLD).sum())
            true += len(facts)
    # four standard deviations of a binomial distribution
    for count, number, rate in ((missed, true, 0.1), (alarms, false, 0.3)):
        assert abs(count / number - rate) < 4 * np.sqrt(rate * (1 - rate) / number)


def test_detector_errors_apply_to_all_wordings_of_an_object(truth: Truth):
    detector = SimulatedDetector(truth, miss_rate=0.5, false_alarm_rate=0.5)
    outcomes = set()
    for image_id in truth:
        if image_id.endswith("_sat"):
            continue
        found = _scores(detector, image_id, ["statue", "statues", "bronze statue"]) >= THRESHOLD
        assert len(set(found.tolist())) == 1
        outcomes.add(bool(found[0]))
    assert outcomes == {True, False}


def test_detector_scores_do_not_depend_on_other_phrases(truth: Truth):
    detector = SimulatedDetector(truth)
    asked = ["tram", "sky", "red car", "dog"]
    together = _scores(detector, STREET, asked)
    for column, one in enumerate(asked):
        assert _scores(detector, STREET, [one]) == together[column]
    with pytest.raises(CaptioningError, match=r"lie between 0 and 1, got 1.5, 0.2 and 0.01"):
        SimulatedDetector(truth, miss_rate=1.5)
