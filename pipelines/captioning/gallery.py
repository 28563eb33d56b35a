"""One HTML file to browse: images, boxes, all candidates, what was struck out and why.

Captions, ids and names come from models and from outside: they enter the page as escaped text
alone, and its Content-Security-Policy lets nothing run but the one script in it, by its hash.
"""

import base64
import difflib
import hashlib
import html
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path

from PIL import Image

from dataset_builders.files import atomic_path
from dataset_builders.images import BadImageError, decode_image, encode_image

from .records import Box, Candidate, LocalCaption, Phrase, SourceImage
from .summary import Findings, GalleryChoice, images_of

PICTURE_BYTES = 12_000_000
"""All pictures together, before base64 makes them a third larger."""
SIDES = (1024, 800, 640, 480, 320, 240)
"""Longest side of a picture in pixels: the first that fits its share of `PICTURE_BYTES`."""
JPEG_QUALITY = 80
DIGIT_WIDTH = 0.7  # of the height of a bold digit
SHOWN_CHARACTERS = 8_000
"""Of one text: a model gone astray may write without end."""
COMPARED_WORDS = 1_500
SHOWN_CONTEXT = 6
"""Words before and after a change."""
WHY_NAMES = {
    "failed": "without a caption",
    "most_dropped_phrases": "most dropped phrases",
    "lowest_consensus": "lowest consensus",
    "sample": "random sample",
}
# control characters HTML cannot hold, lone surrogates, and marks that turn the reading direction
UNPRINTABLE = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\ufffe\uffff]"
)

ReadImages = Callable[[frozenset[str]], Iterable[SourceImage]]
"""Given ids, yields their images; others and missing ones do no harm."""
Picture = tuple[str, int, int]
"""Data URI, width and height of the upright original."""


def write_gallery(
    path: Path,
    parts: Sequence[Path],
    found: Findings,
    images: ReadImages | None,
    title: str,
) -> None:
    """Write the page.

    Args:
        path: of the HTML file.
        parts: the tables of candidates that were examined.
        found: what `examine` made of them.
        images: where the pictures come from; without it there are none.
        title: of the page.
    """
    candidates = _read_candidates(parts, found.gallery)
    pictures = _read_pictures(images, found.gallery, candidates)
    page = render(found, candidates, pictures, title)
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def render(
    found: Findings,
    candidates: Mapping[GalleryChoice, Sequence[Candidate]],
    pictures: Mapping[GalleryChoice, Picture],
    title: str,
) -> str:
    """The page as text; all that is in it of candidates is escaped."""
    style, script = _resource("gallery.css"), _resource("gallery.js")
    names = _Names(candidates.values())
    articles = [
        _article(number, choice, candidates.get(choice, ()), pictures.get(choice), found, names)
        for number, choice in enumerate(found.gallery, 1)
    ]
    policy = (
        f"default-src 'none'; img-src data:; style-src {_csp_hash(style)}; "
        f"script-src {_csp_hash(script)}; base-uri 'none'; form-action 'none'"
    )
    summary = found.summary
    banner = (
        '<p class="banner">Synthetic: the images or the models here are simulated.</p>'
        if summary.synthetic
        else ""
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>{_text(title)}</title>
<link rel="icon" href="data:,">
<style>{style}</style>
</head>
<body>
<header class="page">
<h1>{_text(title)}</h1>
<p class="soft">{len(found.gallery):,} of {summary.images:,} images: {_text(_why_counts(found))}.
{summary.captioned:,} images have a caption, {summary.without_caption:,} have none.</p>
{banner}</header>
{_bar(names, found)}
<main>
{"".join(articles)}</main>
<footer class="soft small"><p>Keys: j or → next image, k or ← previous, / search.
Boxes are numbered as the local captions are. Scores lie in [0, 1].</p></footer>
<script>{script}</script>
</body>
</html>
"""


class _Names:
    """Models and reasons by number, so that no name from outside is ever looked up in the page."""

    def __init__(self, groups: Iterable[Sequence[Candidate]]):
        models, reasons = set(), set()
        for group in groups:
            for one in group:
                models.add(one.model)
                reasons |= _all_reasons(one)
        self.models = {name: number for number, name in enumerate(sorted(models))}
        self.reasons = {name: number for number, name in enumerate(sorted(reasons))}


def _all_reasons(one: Candidate) -> set[str]:
    """Why it was dropped, its flags, and why phrases were struck out."""
    reasons = {one.drop_reason, *one.flags}
    reasons |= {phrase.reason for phrase in one.phrases if not phrase.kept}
    return reasons - {""}


# ---- what is shown ------------------------------------------------------------------------------


def _read_candidates(
    parts: Sequence[Path], choices: Sequence[GalleryChoice]
) -> dict[GalleryChoice, list[Candidate]]:
    """Of the chosen images: the chosen caption first, then by score, then the dropped."""
    wanted = {(choice.part, choice.image_id): choice for choice in choices}
    found: dict[GalleryChoice, list[Candidate]] = {}
    for part in sorted({choice.part for choice in choices if choice.part >= 0}):
        for image_id, candidates in images_of(parts[part]):
            if choice := wanted.get((part, image_id)):
                found[choice] = sorted(candidates, key=_order)
    return found


def _order(one: Candidate) -> tuple[bool, bool, float, str, int]:
    return (not one.chosen, bool(one.drop_reason), -(one.scores.score or 0), one.model, one.index)


def _read_pictures(
    images: ReadImages | None,
    choices: Sequence[GalleryChoice],
    candidates: Mapping[GalleryChoice, Sequence[Candidate]],
) -> dict[GalleryChoice, Picture]:
    if images is None or not choices:
        return {}
    wanted: dict[str, list[GalleryChoice]] = {}
    for choice in choices:
        wanted.setdefault(choice.image_id, []).append(choice)
    share = PICTURE_BYTES // len(choices)
    pictures: dict[GalleryChoice, Picture] = {}
    waiting = set(choices)
    for source in images(frozenset(wanted)):
        for choice in waiting.intersection(wanted.get(source.image_id, ())):
            # two tables may use one id for two images: their content tells
            known = {one.image_sha256 for one in candidates.get(choice, ())}
            if known and source.sha256 not in known:
                continue
            waiting.remove(choice)
            if picture := _picture(source.data, share):
                pictures[choice] = picture
        if not waiting:  # what is left of a large dataset need not be read
            break
    return pictures


def _picture(data: bytes, share: int) -> Picture | None:
    """A reduced copy of at most `share` bytes, or the smallest; None if it cannot be decoded."""
    try:
        image = decode_image(data)
    except BadImageError:
        return None
    for side in SIDES:
        small = image.copy()
        small.thumbnail((side, side), Image.Resampling.LANCZOS)
        encoded = encode_image(small, "JPEG", JPEG_QUALITY)
        if len(encoded) <= share:
            break
    uri = "data:image/jpeg;base64," + base64.b64encode(encoded).decode("ascii")
    return uri, image.width, image.height


# ---- the page -----------------------------------------------------------------------------------


def _bar(names: _Names, found: Findings) -> str:
    """Search and filters; shown by the script, for they do nothing without it."""
    shown = {choice.why for choice in found.gallery}
    whys = [(key, name) for key, name in WHY_NAMES.items() if key in shown]
    models = [(str(number), name) for name, number in names.models.items()]
    reasons = [(str(number), _readable(name)) for name, number in names.reasons.items()]
    return f"""<div class="bar" hidden><form role="search">
<input name="search" type="search" placeholder="Search captions, phrases, ids" \
aria-label="Search captions, phrases, ids" autocomplete="off">
{_select("model", "All models", models)}{_select("reason", "All reasons", reasons)}\
{_select("why", "All images", whys)}
<button type="button" class="previous" title="k or ←">Previous</button>
<button type="button" class="next" title="j or →">Next</button>
<button type="reset">Clear</button>
<output aria-live="polite"></output>
</form></div>"""


def _select(name: str, everything: str, options: Iterable[tuple[str, str]]) -> str:
    items = "".join(f'<option value="{_text(key)}">{_text(text)}</option>' for key, text in options)
    label = f'aria-label="{_text(everything)}"'
    return (
        f'<select name="{name}" {label} autocomplete="off">'
        f'<option value="">{_text(everything)}</option>{items}</select>'
    )


def _article(
    number: int,
    choice: GalleryChoice,
    candidates: Sequence[Candidate],
    picture: Picture | None,
    found: Findings,
    names: _Names,
) -> str:
    boxes = dict.fromkeys(detail.box for one in candidates for detail in one.details)
    numbers = {box: place for place, box in enumerate(boxes, 1)}
    view = _readable(candidates[0].view) if candidates else ""
    badges = [_badge(view)] if view else []
    badges.append(_badge(WHY_NAMES[choice.why], "bad" if choice.why == "failed" else ""))
    if found.summary.synthetic:
        badges.append(_badge("synthetic", "note"))
    shown = "".join(_candidate(one, numbers, names) for one in candidates)
    if not any(one.chosen for one in candidates):
        reasons = dict(found.failures).get(choice.image_id, "")
        shown = f'<p class="badge bad">No caption: {_text(reasons)}</p>{shown}'
    return f"""<article id="image-{number}" tabindex="-1" data-why="{choice.why}" \
aria-labelledby="name-{number}">
<div class="head"><h2 id="name-{number}"><bdi>{_text(choice.image_id)}</bdi></h2> {" ".join(badges)}
</div>
{_figure(number, picture, numbers)}
<div class="candidates">{shown}</div>
</article>
"""


def _figure(number: int, picture: Picture | None, numbers: Mapping[Box, int]) -> str:
    if picture is None:
        return '<figure class="picture"><div class="nothing">no picture</div></figure>'
    uri, width, height = picture
    caption = f"{width} × {height} px"
    if numbers:
        caption += f", {len(numbers)} salient box{'es' if len(numbers) > 1 else ''}"
    return f"""<figure class="picture"><span class="frame">
<img src="{uri}" width="{width}" height="{height}" alt="The image number {number}">
{box_overlay(width, height, numbers)}</span><figcaption>{caption}</figcaption></figure>"""


def box_overlay(width: int, height: int, numbers: Mapping[Box, int]) -> str:
    """The boxes in pixels of the original, whatever size it is shown at; no number leaves it."""
    if not numbers:
        return ""
    size = max(width, height) // 28 + 1
    shapes = []
    for box, number in numbers.items():
        place = f'x="{box.left}" y="{box.top}" width="{box.width}" height="{box.height}"'
        wide = round(DIGIT_WIDTH * size * len(str(number)))
        left = max(0, min(box.left + size // 3, width - wide))
        at = f'x="{left}" y="{min(box.top + size, height - size // 5)}"'
        shapes.append(
            f'<rect class="halo" {place}/><rect class="line" {place}/>'
            f'<text {at} font-size="{size}" stroke-width="{size / 6:.1f}">{number}</text>'
        )
    return (
        f'<svg viewBox="0 0 {width} {height}" preserveAspectRatio="none" aria-hidden="true">'
        f"{''.join(shapes)}</svg>"
    )


def _candidate(one: Candidate, numbers: Mapping[Box, int], names: _Names) -> str:
    reasons = " ".join(str(names.reasons[name]) for name in sorted(_all_reasons(one)))
    data = f'data-model="{names.models[one.model]}" data-reasons="{reasons}"'
    title, body = _title(one), _body(one, numbers)
    if one.chosen:
        head = f'<div class="title">{title}</div>'
        return f'<section class="candidate chosen" {data}>{head}{body}</section>'
    return f'<details class="candidate" {data}><summary>{title}</summary>{body}</details>'


def _title(one: Candidate) -> str:
    badges = [_badge("chosen", "good")] if one.chosen else []
    if one.drop_reason:
        badges.append(_badge(f"dropped: {one.drop_reason.replace('_', ' ')}", "bad"))
    if one.scores.score is not None:
        badges.append(_badge(f"consensus {one.scores.score:.3f}"))
    if struck := sum(not phrase.kept for phrase in one.phrases):
        badges.append(_badge(f"{struck} struck out"))
    badges += [_badge(_readable(flag), "note") for flag in one.flags]
    tag = "h3" if one.chosen else "span"
    name = f'<bdi>{_text(one.model)}</bdi> <span class="soft">#{one.index}</span>'
    return " ".join((f'<{tag} class="model">{name}</{tag}>', *badges))


def _body(one: Candidate, numbers: Mapping[Box, int]) -> str:
    text = f'<p class="text" dir="auto">{_long(one.text)}</p>' if one.text else ""
    return "".join(
        (
            text or '<p class="soft">No text.</p>',
            _scores(one),
            _change(one),
            _phrases(one.phrases),
            _details(one.details, numbers),
            _origin(one),
        )
    )


def _scores(one: Candidate) -> str:
    scores = one.scores
    named = (
        ("consensus", scores.score),
        ("cross-model", scores.cross_model),
        ("objects F1", scores.object_f1),
        ("attributes F1", scores.attribute_f1),
        ("relations F1", scores.relation_f1),
    )
    items = [
        f'<div><dt>{name}</dt><dd><meter min="0" max="1" value="{min(1, max(0, value)):.4f}" '
        f'aria-hidden="true"></meter> {value:.3f}</dd></div>'
        for name, value in named
        if value is not None
    ]
    return f'<dl class="scores">{"".join(items)}</dl>' if items else ""


def _change(one: Candidate) -> str:
    """What refinement took out and put in, word by word."""
    if not one.generated or one.generated == one.text:
        return ""
    before, after = one.generated.split(), one.text.split()
    if max(len(before), len(after)) > COMPARED_WORDS or not after:
        return f'<h4>As first written</h4><p class="text" dir="auto">{_long(one.generated)}</p>'
    pieces = []
    matcher = difflib.SequenceMatcher(None, before, after, autojunk=False)
    for kind, start, stop, other_start, other_stop in matcher.get_opcodes():
        if kind == "equal":
            pieces.append(_text(_ends(before[start:stop])))
            continue
        if stop > start:
            pieces.append(f"<del>{_text(' '.join(before[start:stop]))}</del>")
        if other_stop > other_start:
            pieces.append(f"<ins>{_text(' '.join(after[other_start:other_stop]))}</ins>")
    return (
        '<h4>What refinement changed</h4><p class="text change small" dir="auto">'
        f"{' '.join(pieces)}</p>"
    )


def _ends(words: Sequence[str]) -> str:
    """What stayed, without the middle of a long stretch."""
    if len(words) <= 2 * SHOWN_CONTEXT + 4:
        return " ".join(words)
    return " ".join((*words[:SHOWN_CONTEXT], "…", *words[-SHOWN_CONTEXT:]))


def _phrases(phrases: Sequence[Phrase]) -> str:
    """The struck out first; one that several sentences name is shown once each way it fared."""
    unique = dict.fromkeys(
        (phrase.text, phrase.source, phrase.score, phrase.kept, phrase.reason)
        for phrase in sorted(phrases, key=lambda phrase: phrase.kept)
    )
    if not unique:
        return ""
    items = []
    for text, source, score, kept, reason in unique:
        notes = ["local"] if source == "local" else []
        notes += [f"{score:.2g}"] if score is not None else []
        notes += [_readable(reason)] if reason else []
        shown = f"<span>{_text(text)}</span>" if kept else f"<s>{_text(text)}</s>"
        note = f' <span class="soft">{_text(", ".join(notes))}</span>' if notes else ""
        kind = "kept" if kept else "dropped"
        items.append(f'<li class="{kind}">{shown}{note}</li>')
    return (
        "<h4>Phrases, and how sure the detector is of each</h4>"
        f'<ul class="phrases">{"".join(items)}</ul>'
    )


def _details(details: Sequence[LocalCaption], numbers: Mapping[Box, int]) -> str:
    if not details:
        return ""
    items = []
    for detail in details:
        text = _long(detail.text) if detail.text else '<span class="soft">no text</span>'
        why = f' <span class="soft">({_text(_readable(detail.reason))})</span>'
        items.append(
            f'<li><span class="box">{numbers[detail.box]}</span>'
            f'<span dir="auto">{text}{why if detail.reason else ""}</span></li>'
        )
    return f'<h4>Local captions, by box</h4><ol class="details">{"".join(items)}</ol>'


def _origin(one: Candidate) -> str:
    usage, sampling = one.usage, one.sampling
    tokens = f"{usage.prompt_tokens:,} in, {usage.completion_tokens:,} out"
    named = {
        "revision": one.model_revision,
        "prompt": one.prompt_version,
        "temperature": f"{sampling.temperature:g}",
        "seed": str(sampling.seed),
        "finish": one.finish_reason,
        "tokens": tokens,
        "requests": f"{usage.requests} ({usage.attempts} attempts)",
        "seconds": f"{usage.seconds:.1f}",
        "cost": f"{usage.cost:.4f}",
    }
    items = [
        f"<div><dt>{name}</dt><dd><bdi>{_text(value)}</bdi></dd></div>"
        for name, value in named.items()
        if value
    ]
    return f'<dl class="origin">{"".join(items)}</dl>'


def _badge(text: str, kind: str = "") -> str:
    return f'<span class="badge{" " + kind if kind else ""}"><bdi>{_text(text)}</bdi></span>'


def _why_counts(found: Findings) -> str:
    counts = {
        name: sum(choice.why == key for choice in found.gallery) for key, name in WHY_NAMES.items()
    }
    return ", ".join(f"{n} {name}" for name, n in counts.items() if n) or "none to show"


def _readable(code: str) -> str:
    return code.replace("_", " ")


def _long(text: str) -> str:
    if len(text) <= SHOWN_CHARACTERS:
        return _text(text)
    left = len(text) - SHOWN_CHARACTERS
    return f'{_text(text[:SHOWN_CHARACTERS])} <span class="soft">… {left:,} more characters</span>'


def _text(text: str) -> str:
    """Text as text, also within an attribute's quotes."""
    return html.escape(UNPRINTABLE.sub("\ufffd", text), quote=True)


def _resource(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8")


def _csp_hash(content: str) -> str:
    digest = hashlib.sha256(content.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


__all__ = ["Picture", "ReadImages", "render", "write_gallery"]
