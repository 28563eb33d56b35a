"""`evaluate` metric: R2, RMSE, MAE and Spearman's rank correlation of an urban indicator.

One import per line, because `evaluate` parses them with a regular expression.
"""
# mypy resolves `evaluate` to the checkout's evaluate.py
# mypy: disable-error-code="name-defined,attr-defined"

import datasets
import evaluate

from .metrics import regression_metrics

_DESCRIPTION = """\
Regression metrics of one indicator over regions. Predictions and references must be on the scale
that is scored: UrbanLN uses ln(y + 1) for counts and densities.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: Predicted values, one float per region.
    references: True values in the same order.

Returns:
    r2: Coefficient of determination, 1 - SS_res / SS_tot; NaN if the references are constant.
    rmse: Root mean squared error.
    mae: Mean absolute error.
    spearman: Spearman's rank correlation, average ranks for ties; NaN if either side is constant.

Examples:
    >>> metric = evaluate.load("pipelines/evaluation/urban_regression")
    >>> metric.compute(predictions=[1.0, 2.0, 4.0], references=[1.0, 2.0, 3.0])["r2"]
    0.5
"""

_CITATION = """\
@article{urbanln,
  title = {UrbanLN: learning urban region representations from long captions and noisy pairs},
  journal = {arXiv preprint arXiv:2511.07062},
  year = {2025},
}
"""


class UrbanRegression(evaluate.Metric):
    """`compute(predictions=, references=)` -> `r2`, `rmse`, `mae`, `spearman`."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                # single precision is too coarse for large values such as incomes
                {
                    "predictions": datasets.Value("float64"),
                    "references": datasets.Value("float64"),
                }
            ),
        )

    def _compute(self, predictions: list[float], references: list[float]) -> dict[str, float]:
        scores = regression_metrics(predictions, references)
        return {name: float(value) for name, value in scores.items()}
