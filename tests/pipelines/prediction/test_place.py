import numpy as np

from pipelines.prediction.cross_fit import make_folds
from pipelines.prediction.labels import Indicator
from pipelines.prediction.place import make_place
from tests.wards import make_wards, touching_pairs


def test_folds_of_uneven_polygons_do_not_touch_their_training_regions():
    wards = make_wards(0)
    y = np.arange(len(wards), dtype=float)
    place = make_place(wards, [Indicator("t", "u", "identity", y)])
    folds = make_folds(np.ones(len(wards), bool), place.groups, place.near)
    assert len(folds.names) >= 3
    for name in folds.names:
        part = np.full(len(wards), None)
        part[folds.training(name)], part[folds.rows(name)] = "train", "test"
        assert touching_pairs(wards, part, "train", "test") == 0
