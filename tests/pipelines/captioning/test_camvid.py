"""Segmentation and phrase filter on real street scenes, whose true masks are known."""

import numpy as np
import pytest
from PIL import Image

from pipelines.captioning.filters import phrases_of, remove_phrases, score_phrases, texts_to_ask
from pipelines.captioning.records import Detection, SceneGraph

CLASSES = (
    *("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car"),
    *("pedestrian", "bicyclist"),
)
MISS_RATE, FALSE_ALARM_RATE = 0.05, 0.1
MIN_SHARE = 0.002


def simulated_detection(mask, texts, rng):
    """A *simulated* detector with stated error rates, that looks at the true mask."""
    scores = np.zeros((1, len(texts)), dtype=np.float32)
    for number, text in enumerate(texts):
        there = (mask == CLASSES.index(text)).mean() >= MIN_SHARE
        errs = rng.uniform() < (MISS_RATE if there else FALSE_ALARM_RATE)
        scores[0, number] = rng.uniform(0.02, 0.9) if there != errs else rng.uniform(0, 0.009)
    return Detection(scores, np.zeros((1, 4), dtype=np.float32))


@pytest.fixture(scope="module")
def scenes(shared_data):
    masks = sorted((shared_data / "camvid" / "masks").iterdir())[::3]
    return [np.asarray(Image.open(path)) for path in masks]


def test_phrases_are_kept_and_dropped_as_the_masks_say(scenes):
    rng = np.random.default_rng(0)
    caption = [f"There is a {name}." for name in CLASSES]
    phrases = phrases_of(caption, [SceneGraph((name,)) for name in CLASSES])
    texts = texts_to_ask(phrases)
    true_kept, false_dropped, left_out = [], [], 0
    for mask in scenes:
        found = score_phrases(phrases, simulated_detection(mask, texts, rng), texts)
        for one in found:
            there = (mask == CLASSES.index(one.text)).mean() >= MIN_SHARE
            (true_kept if there else false_dropped).append(one.kept == there)
        rejected = [one.text for one in found if not one.kept]
        left = remove_phrases(" ".join(caption), rejected)
        left_out += len(rejected)
        assert len(left.split(". ")) == len(CLASSES) - len(rejected)
    assert len(true_kept) > 500
    assert len(false_dropped) > 200
    assert left_out > 200
    # to the detector's rates, within three standard errors
    for share, rate in ((true_kept, MISS_RATE), (false_dropped, FALSE_ALARM_RATE)):
        error = np.sqrt(rate * (1 - rate) / len(share))
        assert abs(np.mean(share) - (1 - rate)) < 3 * error
