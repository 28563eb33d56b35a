"""`evaluate.py check`: what a results table claims, recomputed, in words."""

from collections.abc import Iterable
from pathlib import Path

from .checker import (
    PublicationCheck,
    SpreadFinding,
    check_publication,
    check_rows,
)
from .errors import InputError
from .paper import paper_tables, read_publication
from .predictions import RESULTS_FILE
from .results import read_rows

PAPER = "paper"  # what is checked when this word stands for a file
MEANING = (
    "RMSE / sqrt(1 - R2) is the standard deviation of the test labels: one number for all rows of "
    "a task, if they were scored on one test set."
)


def check_path(results: str) -> tuple[str, bool]:
    """Check a file of results.

    Args:
        results: a results.jsonl, a folder that holds some, a JSON file of printed tables in the
            layout of `paper_tables.json`, or the word `paper`.

    Returns:
        The findings in words, and whether all fits.

    Raises:
        InputError: there is nothing to check.
    """
    path = Path(results)
    if results == PAPER and not path.exists():
        return _publication(check_publication(paper_tables()))
    if path.suffix == ".json" and path.is_file():
        return _publication(check_publication(read_publication(path)))
    files = [path] if path.is_file() else sorted(path.glob(f"**/{RESULTS_FILE}"))
    findings = [finding for file in files for finding in check_rows(read_rows(file))]
    if not findings:
        raise InputError(
            f"There are no rows to check in {results!r}: give a {RESULTS_FILE}, a folder that "
            f"holds some, a JSON file of printed tables, or the word {PAPER!r}."
        )
    bad = [finding for finding in findings if not finding.consistent]
    claims = sum(len(finding.claims) for finding in findings) // 2
    lines = [MEANING, "", f"{claims} rows of {len(findings)} tasks checked, {len(bad)} do not fit."]
    return "\n".join([*lines, *spread_lines(bad)]), not bad


def _publication(check: PublicationCheck) -> tuple[str, bool]:
    lines = publication_lines(check)
    fits = not (check.improvements or check.repeats or check.averages) and all(
        finding.consistent for finding in check.spreads
    )
    return "\n".join([check.source, "", MEANING, "", *lines]), fits


def publication_lines(check: PublicationCheck) -> list[str]:
    """What was found in printed tables, a line each."""
    bad = [finding for finding in check.spreads if not finding.consistent]
    lines = [
        f"Label SD: {len(bad)} of {len(check.spreads)} tasks hold rows that no rounding makes fit.",
        *spread_lines(bad),
    ]
    lines.append(
        f"Improvements: {len(check.improvements)} of {check.improvements_checked} cells do not "
        "follow from their table."
    )
    lines += [
        f"- Table {one.table}, {one.city}, {one.system}, {one.indicator}, {one.metric}: "
        f"{one.printed:.1f} % printed, {one.recomputed:.2f} % over the best other ({one.best:g})."
        for one in check.improvements
    ]
    lines.append(f"Scores printed twice with two values: {len(check.repeats)}.")
    lines += [
        f"- {one.city}, {one.system}, {one.indicator}, {one.metric}: {one.values[0]:g} in Table "
        f"{one.tables[0]}, {one.values[1]:g} in Table {one.tables[1]}."
        for one in check.repeats
    ]
    lines.append(f"Means in the text that do not follow: {len(check.averages)}.")
    lines += [
        f"- {one.city}, {one.system}, {one.metric}: {one.printed:.2f} % in the text, "
        f"{one.recomputed:.2f} % by the cells of Table {one.table}."
        for one in check.averages
    ]
    return lines


def spread_lines(findings: Iterable[SpreadFinding]) -> list[str]:
    """The rows that do not fit, a line a task."""
    lines = []
    for finding in findings:
        named = {claim.system: f"{claim.system} {claim.label_sd:.3f}" for claim in finding.claims}
        fitting = len(finding.claims) - len(finding.misfits)
        if fitting > 1:
            rows = ", ".join(named[name] for name in finding.misfits)
            line = f"- {finding.task}: {fitting} fit {finding.label_sd:.3f}; these do not: {rows}."
        else:
            line = f"- {finding.task}: no two agree: {', '.join(named.values())}."
        if finding.outside:
            how = "beyond what rounding explains" if finding.outside_beyond_rounding else "by mean"
            line += f" The proposed systems lie outside the range of all others ({how})."
        lines.append(line)
    return lines


__all__ = ["check_path", "publication_lines", "spread_lines"]
