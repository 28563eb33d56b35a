"""Simulated models: deterministic answers with known error rates."""

import asyncio
import re
from dataclasses import replace

import numpy as np
import pytest

from dataset_builders.synthetic.captioners import CAPTIONERS, STREET_FANCIES, phrase, reword
from examples.simulated_judge import judge
from pipelines.captioning.errors import CaptioningError
from pipelines.captioning.filters import Answer, Filters
from pipelines.captioning.records import Box, Reply, Request, Sampling, SourceImage, View
from pipelines.captioning.simulated import SimulatedDetector, open_model
from pipelines.captioning.simulated.truth import Truth

THRESHOLD = 0.01
STREET, TILE = "harborview_001_001_sv0", "harborview_001_001_sat"


def ask(model, task="describe", image_id=STREET, prompt="Describe.", seed=0, **fields) -> Reply:
    view: View = "satellite" if image_id.endswith("_sat") else "street_view"
    request = Request(task, prompt, b"", Sampling(seed=seed), image_id, "0" * 64, view, **fields)
    return asyncio.run(model.complete(request))


@pytest.fixture(scope="module")
def faultless(city_with_truth):
    rates = ("omission", "hallucination", "refusal", "truncation", "disobedience", "forgetting")
    return open_model({"name": "synthetic-ember", **dict.fromkeys(rates, 0.0)}, city_with_truth)


def test_answers_depend_on_seed_prompt_and_opening_only(city_with_truth):
    amber = open_model({"name": "synthetic-amber"}, city_with_truth)
    first = ask(amber)
    assert ask(amber) == first
    assert len({ask(amber, seed=seed).text for seed in range(5)}) == 5
    assert ask(amber, prompt="Tell.").text != first.text
    for opening, start in (("", "The scene includes"), ("A photo.", "A photo. The scene inc")):
        model = open_model({"name": "synthetic-amber", "opening": opening}, city_with_truth)
        assert ask(model).text.startswith(start)
    with pytest.raises(CaptioningError, match="No ground truth for image 'elsewhere_sv0'"):
        ask(amber, image_id="elsewhere_sv0")


@pytest.mark.parametrize("captioner", CAPTIONERS, ids=lambda one: one.name)
def test_long_captions_have_the_captioners_hallucination_rate(city_with_truth, truth, captioner):
    model = open_model({"name": captioner.name}, city_with_truth)
    false = true = 0
    for image_id in truth:
        for seed in range(5):
            text = ask(model, image_id=image_id, seed=seed).text
            assert 100 <= len(text.split()) <= 200
            found = judge(text, truth[image_id])
            false, true = false + len(found.false), true + len(found.true)
    assert false / (false + true) == pytest.approx(captioner.hallucination, rel=0.35)


def test_short_captions_describe_only_the_crop(faultless, truth: Truth):
    said: set[str] = set()
    for image_id in truth:
        one = truth[image_id]
        height, width = (side // 2 for side in one.pixels.shape)
        for box in (Box(0, 0, height, width), Box(height, width, height, width)):
            text = ask(faultless, "local", image_id, box=box).text
            assert text.count(".") == 1
            assert len(text.split()) <= 30
            found = judge(text, one)
            assert not found.false
            assert found.true <= {sight.thing for sight in one.sights(box)}
            said |= found.true
        found = judge(ask(faultless, image_id=image_id).text, one)
        assert not found.false | found.missed
    assert {"sky", "tree", "tree cover"} <= said


def test_merge_removes_rejected_phrases_and_adds_details(faultless):
    closing = CAPTIONERS[-1].closing
    caption = (
        f"{CAPTIONERS[-1].opening} It shows a sky that is grey. The frame contains a yellow tram. "
        f"It shows factory sheds behind fences on the left. {closing}"
    )
    details = ("This part shows a leafy tree and a sky that is grey.", "A wooden bench.")
    rejected = ("fence", "yellow tram", "dog")
    text = ask(faultless, "merge", caption=caption, details=details, rejected=rejected).text
    assert not re.search(r"tram|fence|dog", text)
    assert text.startswith(CAPTIONERS[-1].opening)
    assert text.endswith(closing)
    for words in ("factory sheds", "leafy tree", "wooden bench"):
        assert words in text.lower()
    assert text.count("a sky that is grey") == 1
    assert Filters().text_reason(Answer(text, original=caption)) == ""


def test_rejects_invalid_options_and_missing_ground_truth(city_with_truth, truth, tmp_path):
    for config, message in (
        ({"name": "qwen"}, "Unknown simulated captioner 'qwen'; available: synthetic-amber"),
        ({"name": "synthetic-amber", "temper": 1}, "options of .*'synthetic-amber': .*'temper'"),
        ({"name": "synthetic-amber", "omission": 1.5}, "`omission` of .* 1.0, got 1.5"),
        ({"name": "synthetic-amber", "omission": "no"}, "`omission` of .* number .*got 'no'"),
    ):
        with pytest.raises(CaptioningError, match=message):
            open_model(config, city_with_truth)
    with pytest.raises(CaptioningError, match="has no truth/"):
        Truth(tmp_path)
    with pytest.raises(CaptioningError, match="need a dataset built with --with_masks"):
        replace(truth[TILE], encoded=None).sights(Box(0, 0, 9, 9))


def detected(detector, image_id: str, phrases: list[str]) -> np.ndarray:
    source = SourceImage(image_id, "street_view", "0" * 64, b"")  # the view is not used
    return detector.detect(source, phrases) >= THRESHOLD


def test_detector_errs_at_its_rates(truth: Truth):
    true = false = missed = alarms = 0
    for seed in range(20):
        detector = SimulatedDetector(truth, miss_rate=0.1, false_alarm_rate=0.3, seed=seed)
        for image_id in truth:
            if image_id.endswith("_sat"):
                continue
            one, captioner = truth[image_id], CAPTIONERS[seed % len(CAPTIONERS)]
            lies = [fact for fact in STREET_FANCIES if fact.key not in one.things]
            alarms += int(detected(detector, image_id, [fact.key for fact in lies]).sum())
            false += len(lies)
            facts = [reword(phrase(fact, "street_view"), captioner) for fact in one.facts]
            missed += int((~detected(detector, image_id, facts)).sum())
            true += len(facts)
    # four standard deviations of a binomial distribution
    for count, number, rate in ((missed, true, 0.1), (alarms, false, 0.3)):
        assert abs(count / number - rate) < 4 * np.sqrt(rate * (1 - rate) / number)
    # phrases without objects are accepted
    blind = SimulatedDetector(truth, miss_rate=1, false_alarm_rate=0)
    assert detected(blind, STREET, ["overall composition", "picture", "detailed view"]).all()
