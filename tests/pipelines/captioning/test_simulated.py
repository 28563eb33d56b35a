"""Simulated captioners: the same answer to the same request, true but for their known errors."""

import asyncio
import re
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dataset_builders.synthetic import build_dataset
from dataset_builders.synthetic.captioners import CAPTIONERS
from pipelines.captioning.errors import CaptioningError
from pipelines.captioning.filters import Answer, Filters
from pipelines.captioning.records import Box, CaptionModel, Reply, Request, Sampling, Task, View
from pipelines.captioning.simulated import open_simulated_model
from pipelines.captioning.simulated_judge import judge
from pipelines.captioning.simulated_merge import REFUSAL
from pipelines.captioning.simulated_truth import Truth

STREET, TILE = "harborview_001_001_sv0", "harborview_001_001_sat"


def _ask(model: CaptionModel, request: Request) -> Reply:
    return asyncio.run(model.complete(request))


def _request(task: Task = "describe", image_id: str = STREET, **fields) -> Request:
    view: View = "satellite" if image_id.endswith("_sat") else "street_view"
    sampling = Sampling(seed=fields.pop("seed", 0))
    return Request(task, "Describe.", b"", sampling, image_id, "0" * 64, view, **fields)


@pytest.fixture(scope="module")
def amber(city_with_truth) -> CaptionModel:
    return open_simulated_model({"name": "synthetic-amber", "dataset_name": city_with_truth})


@pytest.fixture(scope="module")
def faultless(city_with_truth) -> CaptionModel:
    config = {"name": "synthetic-ember", "dataset_name": city_with_truth}
    rates = ("omission", "hallucination", "refusal", "truncation", "disobedience", "forgetting")
    return open_simulated_model(config | dict.fromkeys(rates, 0.0))


def test_model_is_one_and_says_that_it_is_simulated(amber):
    assert isinstance(amber, CaptionModel)
    assert amber.remote is False
    assert "synthetic" in amber.name
    assert "simulated" in amber.revision


def test_same_request_has_the_same_answer_and_another_seed_another(amber):
    first = _ask(amber, _request())
    assert _ask(amber, _request()) == first
    others = {_ask(amber, _request(seed=seed)).text for seed in range(5)}
    assert len(others) == 5
    assert _ask(amber, replace(_request(), prompt="Tell.")).text != first.text


@pytest.mark.parametrize("captioner", CAPTIONERS, ids=lambda one: one.name)
def test_long_captions_have_the_captioners_rate_of_made_up_things(
    city_with_truth, truth: Truth, captioner
):
    model = open_simulated_model({"name": captioner.name, "dataset_name": city_with_truth})
    false = true = 0
    for image_id in truth:
        for seed in range(20):
            text = _ask(model, _request(image_id=image_id, seed=seed)).text
            assert 100 <= len(text.split()) <= 200
            found = judge(text, truth[image_id])
            false, true = false + len(found.false), true + len(found.true)
    assert false / (false + true) == pytest.approx(captioner.hallucination, rel=0.25)


def test_rates_of_a_model_can_be_set(faultless, truth: Truth):
    for image_id in (STREET, TILE):
        found = judge(_ask(faultless, _request(image_id=image_id)).text, truth[image_id])
        assert not found.false | found.missed


def test_short_captions_say_what_is_in_the_crop_and_only_that(faultless, truth: Truth):
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


def test_sky_is_above(faultless):
    top = _ask(faultless, _request("local", box=Box(0, 0, 60, 512))).text
    bottom = _ask(faultless, _request("local", box=Box(200, 0, 56, 512))).text
    assert "sky" in top
    assert "sky" not in bottom


def test_short_captions_are_wrong_at_times(city_with_truth, truth: Truth):
    config = {"name": "synthetic-amber", "dataset_name": city_with_truth, "hallucination": 0.2}
    model = open_simulated_model(config)
    texts = [
        _ask(model, _request("local", STREET, box=Box(0, 0, 200, 300), seed=seed)).text
        for seed in range(30)
    ]
    wrong = [text for text in texts if judge(text, truth[STREET]).false]
    assert 0 < len(wrong) < 30


def test_merge_takes_out_what_was_rejected_and_works_in_what_is_new(faultless):
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


def test_merge_fails_at_its_rates_and_the_guards_find_it(city_with_truth):
    caption = _ask(
        open_simulated_model({"name": "synthetic-basalt", "dataset_name": city_with_truth}),
        _request(),
    ).text
    asked = _request("merge", caption=caption, rejected=("tram",))

    def answers(**rates: float) -> list[Reply]:
        config = {"name": "synthetic-basalt", "dataset_name": city_with_truth, **rates}
        model = open_simulated_model(config)
        prompts = [replace(asked, prompt=str(number)) for number in range(60)]
        return [_ask(model, one) for one in prompts]

    refused = [one for one in answers(refusal=0.3) if one.text == REFUSAL]
    assert 8 <= len(refused) <= 30
    assert Filters().text_reason(Answer(REFUSAL)) == "refusal"
    cut = [one for one in answers(truncation=0.3, refusal=0.0) if one.finish_reason == "length"]
    assert 8 <= len(cut) <= 30
    assert all(len(one.text.split()) < len(caption.split()) for one in cut)


def test_merge_keeps_rejected_things_at_its_rate(city_with_truth):
    config = {"name": "synthetic-basalt", "dataset_name": city_with_truth, "refusal": 0.0}
    model = open_simulated_model(config | {"truncation": 0.0, "disobedience": 0.3})
    caption = "We see a yellow tram. The view shows a stone fountain. We see a river close by."
    kept = 0
    for number in range(60):
        request = _request("merge", caption=caption, rejected=("tram", "yellow tram"))
        text = _ask(model, replace(request, prompt=str(number))).text
        kept += "yellow tram" in text
    assert 8 <= kept <= 30


def test_answers_end_where_the_tokens_end(amber):
    request = replace(_request(), sampling=Sampling(max_tokens=40))
    reply = _ask(amber, request)
    assert reply.finish_reason == "length"
    assert reply.completion_tokens <= 40


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "qwen"}, "no simulated captioner 'qwen'; there are synthetic-amber"),
        ({"name": "synthetic-amber", "temper": 1}, "no option temper of .*'synthetic-amber'"),
        ({"name": "synthetic-amber", "omission": 1.5}, "`omission` of .* 1.0, got 1.5"),
        ({"name": "synthetic-amber", "hallucination": 1}, "`hallucination` of .* 0.9, got 1"),
    ],
)
def test_bad_options_of_a_model_are_told(city_with_truth, config, message):
    with pytest.raises(CaptioningError, match=message):
        open_simulated_model({"dataset_name": city_with_truth, **config})


def test_two_models_may_have_one_captioner(city_with_truth):
    config = {"captioner": "synthetic-amber", "dataset_name": city_with_truth}
    one = open_simulated_model({"name": "synthetic-one", **config})
    other = open_simulated_model({"name": "synthetic-other", "omission": 0.1, **config})
    assert one.name == "synthetic-one"
    assert one.revision != other.revision


def test_unknown_image_and_folder_without_truth_are_told(amber, tmp_path):
    with pytest.raises(CaptioningError, match="Nothing is known of image 'elsewhere_sv0'"):
        _ask(amber, _request(image_id="elsewhere_sv0"))
    with pytest.raises(CaptioningError, match="has no truth/"):
        Truth(tmp_path)


def test_truth_of_an_older_build_is_told(city_with_truth, tmp_path):
    table = pq.read_table(next(city_with_truth.glob("truth/*/*.parquet")))
    path = tmp_path / "truth" / "harborview" / "part-00000.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(pa.table(table.drop_columns(["statements", "cover"])), path)
    with pytest.raises(CaptioningError, match="lacks cover, statements: build the dataset anew"):
        Truth(tmp_path)


def test_crops_without_masks_are_told(tmp_path):
    build_dataset(tmp_path, grid_size=3, street_views=0, num_workers=1)
    with pytest.raises(CaptioningError, match="need a dataset built with --with_masks"):
        Truth(tmp_path)["harborview_001_001_sat"].sights(Box(0, 0, 9, 9))
