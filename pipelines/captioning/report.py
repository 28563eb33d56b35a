"""A finished run as a page to read: tables in Markdown, the same as JSON, and a gallery."""

import csv
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from dataset_builders.files import atomic_path, write_json

from .gallery import ReadImages, write_gallery
from .summary import CountTokens, Findings, Lengths, ModelSummary, Spread, Summary, examine

REPORT_FILE, JSON_FILE, GALLERY_FILE = "report.md", "report.json", "gallery.html"
FAILURES_FILE = "without_caption.csv"
DASH = "–"
# an underscore within a word is no markup
MARKUP = re.compile(r"[\\`*\[\]<>|#&!~]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")


def write_report(
    output_dir: Path,
    parts: Sequence[Path],
    rejects: Sequence[Path] = (),
    images: ReadImages | None = None,
    count_tokens: CountTokens | None = None,
    gallery_size: int = 50,
    seed: int = 0,
    synthetic: bool = False,
    title: str = "Captions",
    currency: str = "",
) -> Path:
    """Write report.md, report.json, without_caption.csv and gallery.html.

    Args:
        output_dir: made if need be.
        parts: tables of candidates, the rows of an image together.
        rejects: tables of what failed.
        images: given the ids of the gallery's images, yields them; without it there are no
            pictures in the gallery.
        count_tokens: of a text, start and end token included; CLIP's by default.
        gallery_size: images in the gallery; 0 writes none.
        seed: of the random part of the gallery.
        synthetic: the images or the models are simulated; said in titles, tables and gallery.
        title: of the report.
        currency: of the costs.

    Returns:
        The path of report.md.
    """
    if synthetic and "synthetic" not in title.lower():
        title = f"{title} (synthetic)"
    found = examine(parts, count_tokens, rejects, synthetic, gallery_size, seed)
    if gallery_size:
        write_gallery(output_dir / GALLERY_FILE, parts, found, images, title)
    write_json(output_dir / JSON_FILE, {"title": title, **found.summary.to_dict()})
    _write(output_dir / FAILURES_FILE, _failures_csv(found))
    path = output_dir / REPORT_FILE
    _write(path, markdown(found.summary, title, gallery=bool(gallery_size), currency=currency))
    return path


def markdown(summary: Summary, title: str, gallery: bool = True, currency: str = "") -> str:
    """The report's text."""
    mark = " (synthetic)" if summary.synthetic else ""
    parts = [f"# {_cell(title)}", *_introduction(summary)]
    if gallery:
        parts.append(f"[Look at a choice of images with all their candidates]({GALLERY_FILE}).")
    models = summary.models
    if models:
        parts += [f"## Models{mark}", _quality_table(models)]
        parts += [
            "*Consensus: CAPTURE of a candidate against the other candidates of its image, mean ± "
            "SD over the candidates kept; cross-model: against other models' only. Win rate: share "
            "of the captioned images whose chosen caption is the model's.*"
        ]
        parts += [f"## Agreement by kind of element{mark}", _agreement_table(models)]
        parts += [f"## Dropped candidates{mark}", _reason_table(models, "dropped")]
        parts += [f"## Phrases{mark}", _phrase_table(models), _reason_table(models, "phrases")]
        parts += [f"## Length in CLIP tokens{mark}", _length_table(summary)]
        parts += [
            "*Start and end token included. A text encoder of 248 (77) positions cuts off the "
            "rest.*"
        ]
        parts += [f"## What it took{mark}", _usage_table(models, currency)]
        parts += ["*Seconds are of waiting, summed over requests, many of which run side by side.*"]
        parts += [f"## Flags{mark}", _flag_table(summary)]
    if summary.rejects:
        counts = [[_cell(name), f"{n:,}"] for name, n in summary.rejects.items()]
        parts += [f"## What failed{mark}", _table(["stage: reason", "times"], counts)]
    parts += _failures(summary)
    return "\n\n".join(parts) + "\n"


def _introduction(summary: Summary) -> list[str]:
    views = ", ".join(f"{n:,} {_cell(view)}" for view, n in summary.views.items())
    text = (
        f"{summary.images:,} images{f' ({views})' if views else ''}: {summary.captioned:,} with a "
        f"caption, {summary.without_caption:,} without."
    )
    if summary.words.n:
        text += (
            f" A chosen caption has {_mean(summary.words)} words (median {summary.words.median}, "
            f"95 % have at most {summary.words.p95})."
        )
    if summary.synthetic:
        return ["**Everything here is synthetic: images or models are simulated.**", text]
    return [text]


def _quality_table(models: Sequence[ModelSummary]) -> str:
    header = ["model", "candidates", "kept", "refined", "consensus", "cross-model", "wins"]
    rows = [
        [
            _cell(one.model),
            f"{one.candidates:,}",
            _of(one.kept, one.candidates),
            _of(one.refined, one.kept),
            _spread(one.consensus),
            _spread(one.cross_model),
            f"{one.wins:,} ({_percent(one.win_rate)})",
        ]
        for one in models
    ]
    return _table([*header[:-1], "wins (win rate)"], rows)


def _agreement_table(models: Sequence[ModelSummary]) -> str:
    rows = [
        [_cell(one.model), *map(_spread, (one.object_f1, one.attribute_f1, one.relation_f1))]
        for one in models
    ]
    return _table(["model", "objects F1", "attributes F1", "relations F1"], rows)


def _phrase_table(models: Sequence[ModelSummary]) -> str:
    rows = [
        [
            _cell(one.model),
            f"{one.phrases:,}",
            _of(one.phrases_asked, one.phrases),
            _of(one.phrases_dropped, one.phrases),
        ]
        for one in models
    ]
    return _table(["model", "phrases", "asked of the detector", "dropped"], rows)


def _reason_table(models: Sequence[ModelSummary], what: str) -> str:
    """Reasons x models."""
    counts = [one.dropped if what == "dropped" else one.phrase_reasons for one in models]
    reasons = sorted({reason for one in counts for reason in one})
    if not reasons:
        return "None."
    rows = [[_cell(reason), *(f"{one.get(reason, 0):,}" for one in counts)] for reason in reasons]
    return _table(["reason", *(_cell(one.model) for one in models)], rows)


def _length_table(summary: Summary) -> str:
    named = [(_cell(one.model), one.tokens) for one in summary.models]
    rows = [
        [
            name,
            f"{lengths.n:,}",
            _mean(lengths),
            *(_integer(n) for n in (lengths.median, lengths.p95, lengths.maximum)),
            *(_percent(lengths.over.get(limit)) for limit in ("248", "77")),
        ]
        for name, lengths in [*named, ("*chosen captions*", summary.tokens)]
    ]
    header = ["model", "texts", "mean", "median", "95 %", "longest", "cut at 248", "cut at 77"]
    return _table(header, rows)


def _usage_table(models: Sequence[ModelSummary], currency: str) -> str:
    rows = [
        [
            _cell(one.model),
            *(
                f"{value:,}"
                for value in (
                    one.requests,
                    one.attempts,
                    one.prompt_tokens,
                    one.completion_tokens,
                )
            ),
            f"{one.seconds:,.1f}",
            f"{one.cost:,.4f}",
        ]
        for one in models
    ]
    cost = f"cost ({_cell(currency)})" if currency else "cost"
    header = ["model", "requests", "attempts", "tokens in", "tokens out", "seconds", cost]
    return _table(header, rows)


def _flag_table(summary: Summary) -> str:
    if not summary.flagged_images:
        return "None."
    rows = [
        [_cell(flag), f"{n:,}", f"{summary.flagged_captions.get(flag, 0):,}"]
        for flag, n in summary.flagged_images.items()
    ]
    return _table(["flag", "images with it in any candidate", "chosen captions with it"], rows)


def _failures(summary: Summary) -> list[str]:
    if not summary.without_caption:
        return []
    rows = [[_cell(name), _cell(reason)] for name, reason in summary.without_caption_first]
    mark = " (synthetic)" if summary.synthetic else ""
    parts = [f"## Images without a caption{mark}", _table(["image", "reasons"], rows, texts=2)]
    if summary.without_caption > len(rows):
        parts.append(f"*All {summary.without_caption:,} are in {FAILURES_FILE}.*")
    return parts


def _failures_csv(found: Findings) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["image_id", "reasons"])
    writer.writerows(found.failures)
    return buffer.getvalue()


def _write(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        # a lone surrogate, which no file can hold, is shown as what it is
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def _table(header: Sequence[str], body: Iterable[Sequence[str]], texts: int = 1) -> str:
    """A Markdown table, aligned in plain text too: `texts` columns left, then numbers right."""
    rows = [list(header), *map(list, body)]
    widths = [max(3, *(len(row[column]) for row in rows)) for column in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.ljust(width) if column < texts else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |"

    rules = [
        "-" * (width + 2) if column < texts else "-" * (width + 1) + ":"
        for column, width in enumerate(widths)
    ]
    return "\n".join([line(rows[0]), "|" + "|".join(rules) + "|", *map(line, rows[1:])])


def _cell(text: str) -> str:
    """Text from outside, as text: it can neither end the cell nor be read as markup."""
    return MARKUP.sub(lambda match: f"&#{ord(match[0])};", " ".join(text.split()))


def _spread(spread: Spread) -> str:
    if spread.mean is None:
        return DASH
    return f"{spread.mean:.3f} ± {spread.sd:.3f}"


def _mean(lengths: Lengths) -> str:
    return DASH if lengths.mean is None else f"{lengths.mean:.1f}"


def _integer(value: int | None) -> str:
    return DASH if value is None else f"{value:,}"


def _percent(share: float | None) -> str:
    return DASH if share is None else f"{share:.1%}"


def _of(part: int, whole: int) -> str:
    return f"{part:,} ({part / whole:.1%})" if whole else f"{part:,}"


__all__ = ["markdown", "write_report"]
