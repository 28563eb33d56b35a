"""The simulated detector: errs at its stated rates, and says the same whenever it is asked."""

import numpy as np
import pytest

from dataset_builders.synthetic.captioners import CAPTIONERS, STREET_FANCIES, phrase, reword
from pipelines.captioning.errors import CaptioningError
from pipelines.captioning.records import PhraseDetector, SourceImage, View
from pipelines.captioning.simulated import open_simulated_detector
from pipelines.captioning.simulated_detector import SimulatedDetector
from pipelines.captioning.simulated_truth import Truth
from pipelines.captioning.simulated_wording import padding_stems, stems, vocabulary

THRESHOLD = 0.01


def _source(image_id: str) -> SourceImage:
    view: View = "satellite" if image_id.endswith("_sat") else "street_view"
    return SourceImage(image_id, view, "0" * 64, b"")


def _scores(detector: SimulatedDetector, image_id: str, phrases: list[str]) -> np.ndarray:
    return detector.detect(_source(image_id), phrases).scores.max(axis=0)


def test_detector_is_one(truth: Truth):
    assert isinstance(SimulatedDetector(truth), PhraseDetector)
    assert "simulated" in SimulatedDetector(truth).revision


@pytest.mark.parametrize("captioner", CAPTIONERS, ids=lambda one: one.name)
def test_faultless_detector_tells_true_from_made_up_in_any_captioners_words(truth, captioner):
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


def test_detector_knows_attributes_and_plurals(truth: Truth):
    detector = SimulatedDetector(truth, miss_rate=0, false_alarm_rate=0)
    image_id, one = next(
        (image_id, truth[image_id])
        for image_id in truth
        if "tree" in truth[image_id].things and image_id.endswith("sv0")
    )
    foliage = {item.attribute for item in one.objects if item.name == "tree"}
    assert len(foliage) == 1
    wrong = ({"leafy", "golden", "bare"} - foliage).pop()
    asked = ["tree", "trees", f"{foliage.pop()} trees", f"{wrong} tree"]
    assert (_scores(detector, image_id, asked) > THRESHOLD).tolist() == [True, True, True, False]


def test_every_attribute_of_the_city_can_be_true_or_false(truth: Truth):
    objects = [item for image_id in truth for item in truth[image_id].objects]
    attributes = {item.attribute for item in objects} | {"golden", "leafy", "bare"}
    known = vocabulary("street_view") | padding_stems()
    assert {word for word in attributes if not stems(word) <= known} == set()


def test_detector_doubts_nothing_that_names_nothing(truth: Truth):
    detector = SimulatedDetector(truth, miss_rate=1, false_alarm_rate=0)
    asked = ["overall composition", "picture", "detailed view"]
    assert (_scores(detector, "harborview_000_000_sv0", asked) > THRESHOLD).all()


def test_detector_errs_at_its_rates(truth: Truth):
    true = false = missed = alarms = 0
    for seed in range(60):
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
    # four standard deviations of a binomial of independent things
    for count, number, rate in ((missed, true, 0.1), (alarms, false, 0.3)):
        assert abs(count / number - rate) < 4 * np.sqrt(rate * (1 - rate) / number)


def test_detector_misses_a_thing_in_all_its_wordings_or_in_none(truth: Truth):
    detector = SimulatedDetector(truth, miss_rate=0.5, false_alarm_rate=0.5)
    outcomes = set()
    for image_id in truth:
        if image_id.endswith("_sat"):
            continue
        found = _scores(detector, image_id, ["statue", "statues", "bronze statue"]) >= THRESHOLD
        assert len(set(found.tolist())) == 1
        outcomes.add(bool(found[0]))
    assert outcomes == {True, False}


def test_scores_do_not_depend_on_what_else_is_asked(truth: Truth):
    detector = SimulatedDetector(truth)
    asked = ["tram", "sky", "red car", "dog"]
    together = detector.detect(_source("harborview_001_001_sv0"), asked).scores
    for column, one in enumerate(asked):
        alone = detector.detect(_source("harborview_001_001_sv0"), [one]).scores
        np.testing.assert_array_equal(alone[:, 0], together[:, column])


def test_detection_has_a_box_for_each_patch_and_scores_in_range(truth: Truth):
    found = SimulatedDetector(truth).detect(_source("harborview_001_001_sv0"), ["sky", "car"])
    assert found.scores.dtype == found.boxes.dtype == np.float32
    assert found.scores.shape == (len(found.boxes), 2)
    assert len(found.boxes) > 1
    assert found.scores.min() >= 0
    assert found.scores.max() <= 1
    assert (found.boxes[:, 2:] > found.boxes[:, :2]).all()
    assert found.boxes[0].tolist() == [0, 0, 512, 256]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"miss_rate": 1.5}, "`miss_rate` must lie between 0 and 1, got 1.5"),
        ({"false_alarm_rate": -0.1}, "`false_alarm_rate` must lie between 0 and 1"),
        ({"threshold": 0}, "`threshold` must lie between 0 and 1, got 0"),
        ({"mis_rate": 0.1}, "no option mis_rate of the simulated detector"),
    ],
)
def test_bad_options_of_the_detector_are_told(city_with_truth, options, message):
    with pytest.raises(CaptioningError, match=message):
        open_simulated_detector({"dataset_name": city_with_truth, **options})


def test_every_option_changes_the_revision(truth: Truth):
    variants = [
        SimulatedDetector(truth),
        SimulatedDetector(truth, miss_rate=0.1),
        SimulatedDetector(truth, false_alarm_rate=0.1),
        SimulatedDetector(truth, threshold=0.1),
        SimulatedDetector(truth, seed=1),
    ]
    assert len({detector.revision for detector in variants}) == 5
