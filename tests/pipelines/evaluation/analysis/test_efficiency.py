import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from pipelines.evaluation.analysis import efficiency
from pipelines.evaluation.errors import InputError
from tests.pipelines.evaluation.baselines.toy_cities import toy_city


class Net(nn.Module):
    """Module with 10 used and 6 unused parameters."""

    def __init__(self):
        super().__init__()
        self.used, self.unused = nn.Linear(4, 2), nn.Linear(2, 2)

    def forward(self, x):
        return self.used(x)


def count(modules):
    return sum(p.numel() for p in efficiency.parameters(modules))


def test_counts_modules_that_run_and_modules_held_by_a_system():
    net = Net()
    with efficiency.running_modules() as seen:
        net(torch.zeros(1, 4))
        net(torch.zeros(1, 4))
    assert count(seen) == 10
    net.unused(torch.zeros(1, 2))
    assert count(seen) == 10, "what runs afterwards does not count"
    attention = nn.MultiheadAttention(4, 2)
    with efficiency.running_modules() as seen:
        attention(*[torch.zeros(1, 1, 4)] * 3)
    assert count(seen) == sum(p.numel() for p in attention.parameters())
    holder = SimpleNamespace(one=Net(), more=[Net()], named={"x": Net()}, words=["no"])
    assert count(list(efficiency.modules_of(holder))) == 3 * 16


def test_speed_counts_only_the_images_used(monkeypatch):
    monkeypatch.setattr(efficiency, "BATCHES", (1, 4))
    data = toy_city(3)
    calls = []

    def satellite_alone(part):
        calls.append(len(part.region_ids))
        return {"satellite": np.zeros((len(part.region_ids), 2))}

    one, four = efficiency.measure(satellite_alone, data, "cpu", 0.0)
    assert [(s["regions"], s["images"]) for s in (one, four)] == [(1, 1), (4, 4)]
    assert calls == [1] * 4 + [4] * 4, "one to warm up, three that count"
    fused, _ = efficiency.measure(lambda part: {"both": np.zeros((1, 2))}, data, "cpu", 0.0)
    assert fused["images"] == 3, "a tile and two street views"
    part, street = efficiency.subset(data, 3), data.views["street_view"]
    assert part.region_ids == data.region_ids[:3]
    np.testing.assert_array_equal(part.views["street_view"].pixels, street.pixels[:6])
    assert part.views["street_view"].region.tolist() == [0, 0, 1, 1, 2, 2]


def test_trainable_and_inference_parameters_are_counted(monkeypatch, tmp_path):
    monkeypatch.setattr(efficiency, "load_region_data", lambda *_: toy_city(3, views=1))
    with pytest.raises(InputError, match="quarters has 9 regions; a batch of 128"):
        efficiency.measure_efficiency(tmp_path, "toy", "quarters", ["tile2vec"])
    monkeypatch.setattr(efficiency, "BATCHES", (1, 4))
    said: list[str] = []
    efficiency.measure_efficiency(tmp_path, "toy", "quarters", ["tile2vec", "urbanclip"],
                       min_seconds=0.0, log=said.append)  # fmt: skip
    tile2vec, urbanclip = json.loads((tmp_path / "efficiency.json").read_text())["systems"]
    assert tile2vec["trainable"] == tile2vec["inference"] == tile2vec["total"]
    # the text encoder and the decoder are used in training only
    assert urbanclip["inference"] < urbanclip["trainable"] <= urbanclip["total"]
    assert len(said) == 2
