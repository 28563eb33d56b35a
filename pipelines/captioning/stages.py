"""The stages of one image: describe, filter, merge, consensus.

Each asks the ledger first, so going through them again costs nothing where nothing has changed.
A stage takes candidates and returns new ones; what fails is marked and listed, never left out.
"""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from typing import Any

from dataset_builders.captions import has_template_token, strip_template, visible_text
from dataset_builders.images import BadImageError

from .capture import REVISION as CAPTURE_REVISION
from .capture import choose, consensus_scores
from .capture_parsing import parsed_caption, parsing_revision
from .errors import RequestFailedError
from .filters import Answer
from .kit import Kit
from .ledger import DETAIL_LENGTH, Ledger, Unit, unit_key
from .passes import Pass
from .phrases import RULES_VERSION as FILTER_RULES
from .phrases import phrases_of, score_phrases, texts_to_ask
from .picture import Picture
from .privacy import redact_text, scan_text
from .records import (
    Box,
    Candidate,
    CaptionModel,
    LocalCaption,
    Phrase,
    Request,
    Sampling,
    SceneGraph,
    Scores,
    SourceImage,
    Usage,
)
from .refine import apply_merge, fall_back, merge_inputs
from .scene_graph import split_sentences
from .segment import BOXES_REVISION, salient_boxes
from .tables import Reject
from .text import tidy_caption

Stages = tuple[tuple[Candidate, ...], tuple[Reject, ...]]


class ImageStages:
    """Takes images of a shard through the stages.

    Args:
        kit: models and all.
        ledger: of the shard.
    """

    def __init__(self, kit: Kit, ledger: Ledger):
        self._kit = kit
        self._ledger = ledger

    async def run(self, source: SourceImage, step: Pass) -> Stages:
        """Bring an image as far as a pass goes.

        Returns:
            After the last pass, the candidates of the image and what failed on the way; before,
            nothing.
        """
        return await _ImageRun(self._kit, self._ledger, source).run(step)


class _ImageRun:
    """One image on its way; gathers what fails."""

    def __init__(self, kit: Kit, ledger: Ledger, source: SourceImage):
        self.kit, self.recipe, self.ledger = kit, kit.recipe, ledger
        self.source, self.picture = source, Picture(source, kit.blurrer)
        self.rejects: dict[str, Reject] = {}

    async def run(self, step: Pass) -> Stages:
        seen = await self._once("image", self._look, parts={})
        reason, detail = seen.reason, seen.detail
        if not seen.failed:
            reason, detail = await asyncio.to_thread(self._judge_image)
        if reason:
            return (), (Reject(self.source.image_id, "image", "", reason, detail),)
        if step.stage == "describe":
            await self.describe(step.models)
            return (), ()
        candidates = await self.describe(self.recipe.model_names)
        candidates = await self.filter(candidates)
        if step.stage == "filter":
            return (), ()
        if step.stage == "merge":
            await self.merge([one for one in candidates if one.model in step.models])
            return (), ()
        candidates = await self.consensus(await self.merge(candidates))
        if not any(one.chosen for one in candidates):
            reasons = sorted({one.drop_reason for one in candidates})
            await self._reject("image", "", "no_caption", ", ".join(reasons))
        if self.recipe.privacy.redact:
            candidates = [_redacted(one) for one in candidates]
        return tuple(candidates), tuple(self.rejects.values())

    async def _look(self) -> dict[str, int]:
        try:
            image = await asyncio.to_thread(lambda: self.picture.image)
        except BadImageError as error:
            raise RequestFailedError(error.reason, str(error)) from error
        return {"width": image.width, "height": image.height}

    def _judge_image(self) -> tuple[str, str]:
        return self.kit.filters.image_reason(self.picture, self.source.image_id)

    # ---- describe -------------------------------------------------------------------------------

    async def describe(self, names: Sequence[str]) -> list[Candidate]:
        """The long captions of the models, and each model's captions of the salient boxes."""
        boxes = await self._boxes() if self.recipe.refine else ()
        groups = await asyncio.gather(*(self._of_model(self.kit.models[n], boxes) for n in names))
        return [candidate for group in groups for candidate in group]

    async def _boxes(self) -> tuple[Box, ...]:
        def find() -> list[dict[str, int]]:
            image = self.picture.image
            masks = self.kit.segmenter.masks(image)
            shape = (image.height, image.width)
            return [asdict(box) for box in salient_boxes(masks, shape, **settings)]

        settings = dict(self.recipe.segment.boxes)
        parts = {
            "revision": self.kit.segmenter.revision,
            "rules": BOXES_REVISION,
            "settings": settings,
        }
        unit = await self._once("segment", lambda: asyncio.to_thread(find), parts)
        return tuple(Box(**box) for box in unit.result)

    async def _of_model(self, model: CaptionModel, boxes: Sequence[Box]) -> list[Candidate]:
        number = self.recipe.generate.captions_per_model
        (captions, usage), candidates = await asyncio.gather(
            self._details(model, boxes),
            asyncio.gather(*(self._long(model, index) for index in range(number))),
        )
        # what the boxes cost is booked once, on the model's first caption
        first = replace(candidates[0], usage=_sum([candidates[0].usage, usage]))
        return [
            candidate if candidate.drop_reason else replace(candidate, details=captions)
            for candidate in (first, *candidates[1:])
        ]

    async def _long(self, model: CaptionModel, index: int) -> Candidate:
        settings = self.recipe.generate
        prompt, version = self.kit.prompts.describe(
            self.source.view, index % settings.prompt_variants
        )
        sampling = Sampling(
            settings.temperature[index % len(settings.temperature)],
            settings.top_p,
            settings.max_tokens,
            self.recipe.seed + index,
        )
        blank = Candidate(
            self.source.image_id,
            self.source.sha256,
            self.source.view,
            model.name,
            model.revision,
            version,
            index,
            sampling,
        )
        unit = await self._ask(model, "describe", prompt, sampling)
        if unit.failed:
            return replace(blank, drop_reason=unit.reason, usage=_usage(model, unit))
        text, flags = tidy_caption(unit.result["text"])
        answer = Answer(text, unit.result["finish_reason"], prompt)
        reason = self.kit.filters.text_reason(answer)
        return replace(
            blank,
            text=text,
            generated=unit.result["text"],
            finish_reason=unit.result["finish_reason"],
            flags=tuple(flags),
            drop_reason=reason,
            usage=_usage(model, unit),
        )

    async def _details(
        self, model: CaptionModel, boxes: Sequence[Box]
    ) -> tuple[tuple[LocalCaption, ...], Usage]:
        settings = self.recipe.segment
        prompt, _ = self.kit.prompts.local(self.source.view)
        sampling = Sampling(settings.temperature, 1.0, settings.max_tokens, self.recipe.seed)
        units = await asyncio.gather(
            *(self._ask(model, "local", prompt, sampling, box=box) for box in boxes)
        )
        details = [
            await self._local(box, model, unit) for box, unit in zip(boxes, units, strict=True)
        ]
        return tuple(details), _sum(_usage(model, unit) for unit in units)

    async def _local(self, box: Box, model: CaptionModel, unit: Unit) -> LocalCaption:
        if unit.failed:
            return LocalCaption(box, "", unit.reason)
        text = strip_template(unit.result["text"])
        reason = "" if text else "empty"
        if has_template_token(text):
            text, reason = "", "template_token"
        if reason:
            detail = unit.result["text"][:DETAIL_LENGTH]
            await self._reject("local", model.name, reason, detail, key=unit.key)
        return LocalCaption(box, text, reason)

    # ---- filter ---------------------------------------------------------------------------------

    async def filter(self, candidates: list[Candidate]) -> list[Candidate]:
        """The visual elements of all captions, and which of them the image supports."""
        if not self.recipe.refine or not self.kit.filters.phrases:
            return candidates
        phrases = await asyncio.gather(*(self._phrases(one) for one in candidates))
        filter = self.recipe.filter
        parts = {
            "detector": self.kit.detector.revision,
            "rules": FILTER_RULES,
            "mode": filter.mode,
            "threshold": filter.threshold,
            "phrases": phrases,
        }

        async def score() -> list[list[dict[str, Any]]]:
            texts = texts_to_ask([phrase for group in phrases for phrase in group])
            if not texts:
                return [[asdict(phrase) for phrase in group] for group in phrases]
            detection = await self.kit.in_detector(self.kit.detector.detect, self.source, texts)
            return [
                [
                    asdict(phrase)
                    for phrase in score_phrases(
                        group, detection, texts, filter.mode, filter.threshold
                    )
                ]
                for group in phrases
            ]

        unit = await self._once("filter", score, parts)
        return [
            one
            if one.drop_reason
            else replace(one, stage="filter", phrases=tuple(Phrase(**fields) for fields in scored))
            for one, scored in zip(candidates, unit.result, strict=True)
        ]

    async def _phrases(self, one: Candidate) -> tuple[Phrase, ...]:
        if one.drop_reason:
            return ()
        local = [detail.text for detail in one.details]
        sentences = split_sentences(one.text)
        graphs, *of_local = await asyncio.gather(
            self._graphs(one.text), *(self._graphs(text) for text in local)
        )
        return phrases_of(sentences, graphs, local, of_local)

    async def _graphs(self, text: str) -> list[SceneGraph]:
        """A graph for each sentence of a text."""
        if not (sentences := split_sentences(text)):
            return []
        key = unit_key("parse", revision=self.kit.parser.revision, text=text)

        async def parse() -> list[dict[str, Any]]:
            graphs = await self.kit.in_parser(self.kit.parser.parse, sentences)
            return [asdict(graph) for graph in graphs]

        unit = await self.ledger.once(key, "parse", self.source.image_id, parse)
        return [_graph(fields) for fields in unit.result]

    # ---- merge ----------------------------------------------------------------------------------

    async def merge(self, candidates: list[Candidate]) -> list[Candidate]:
        """Each caption rewritten by its own model: without what is not there, with details."""
        return list(await asyncio.gather(*(self._merge(one) for one in candidates)))

    async def _merge(self, one: Candidate) -> Candidate:
        if one.drop_reason:
            return one
        caption, details, rejected = merge_inputs(one, self.kit.filters)
        if not details and not rejected:
            return self._private(replace(one, stage="merge"))
        model, settings = self.kit.models[one.model], self.recipe.merge
        prompt, _ = self.kit.prompts.merge(one.view, caption, details, rejected)
        sampling = Sampling(settings.temperature, 1.0, settings.max_tokens, one.sampling.seed)
        unit = await self._ask(
            model,
            "merge",
            prompt,
            sampling,
            caption=caption,
            details=details,
            rejected=rejected,
        )
        merged = (
            fall_back(one, unit.reason, self.kit.filters)
            if unit.failed
            else apply_merge(
                one, unit.result["text"], self.kit.filters, unit.result["finish_reason"]
            )
        )
        return self._private(replace(merged, usage=_sum([one.usage, _usage(model, unit)])))

    def _private(self, one: Candidate) -> Candidate:
        """Personal data in the text flagged, and taken out if the recipe says so."""
        found = scan_text(one.text)
        text = redact_text(one.text) if self.recipe.privacy.redact else one.text
        return replace(one, text=text, flags=(*one.flags, *found))

    # ---- consensus ------------------------------------------------------------------------------

    async def consensus(self, candidates: list[Candidate]) -> list[Candidate]:
        """CAPTURE of every candidate against the others, and the best of them."""
        settings = self.recipe.consensus
        candidates = await asyncio.to_thread(lambda: [self._judged(one) for one in candidates])
        graphs = await asyncio.gather(
            *(self._graphs("" if one.drop_reason else one.text) for one in candidates)
        )
        texts = ["" if one.drop_reason else one.text for one in candidates]
        models = [one.model for one in candidates]
        parts = {
            "settings": settings,
            "encoder": self.kit.encode.revision,
            "parser": self.kit.parser.revision,
            "capture": [CAPTURE_REVISION, parsing_revision()],
            "texts": texts,
            "models": models,
        }

        def score() -> list[dict[str, Any]]:
            parsed = [
                parsed_caption(split_sentences(text), of_text, settings.stop_words)
                if text
                else None
                for text, of_text in zip(texts, graphs, strict=True)
            ]
            scores = consensus_scores(
                parsed,
                self.kit.encode,
                models=models,
                texts=texts,
                weights=settings.weights,
                same_model_pairs=settings.same_model_pairs,
            )
            return [asdict(one) for one in scores]

        unit = await self._once("consensus", lambda: self.kit.in_consensus(score), parts)
        scored = [
            one if one.drop_reason else replace(one, stage="consensus", scores=Scores(**fields))
            for one, fields in zip(candidates, unit.result, strict=True)
        ]
        best = choose(scored, self.recipe.model_names)
        return [replace(one, chosen=index == best) for index, one in enumerate(scored)]

    def _judged(self, one: Candidate) -> Candidate:
        """The candidate, dropped if a filter finds that its final text does not fit the image."""
        if one.drop_reason:
            return one
        reason, _ = self.kit.filters.caption_reason(self.picture, one.text)
        return replace(one, drop_reason=reason)

    # ---- units ----------------------------------------------------------------------------------

    async def _once(self, stage: str, compute: Any, parts: dict[str, Any]) -> Unit:
        """A unit of this image that asks no captioning model."""
        key = unit_key(stage, image=self.source.sha256, **parts)
        return await self.ledger.once(key, stage, self.source.image_id, compute)

    async def _ask(
        self,
        model: CaptionModel,
        task: Any,
        prompt: str,
        sampling: Sampling,
        box: Box | None = None,
        caption: str = "",
        details: tuple[str, ...] = (),
        rejected: tuple[str, ...] = (),
    ) -> Unit:
        """One request to a model, unless it has been answered; a failure is listed."""
        blurred = self.kit.blurred_for(model)
        key = unit_key(
            task,
            image=self.source.sha256,
            model=model.revision,
            prompt=prompt,
            sampling=sampling,
            box=box,
            blurred=self.kit.blurrer.revision if blurred else "",
        )

        async def ask() -> dict[str, Any]:
            image = await asyncio.to_thread(
                lambda: self.picture.crop(box, blurred) if box else self.picture.whole(blurred)
            )
            request = Request(
                task,
                prompt,
                image,
                sampling,
                self.source.image_id,
                self.source.sha256,
                self.source.view,
                box,
                caption,
                details,
                rejected,
            )
            return asdict(await model.complete(request))

        unit = await self.ledger.once(key, task, self.source.image_id, ask, model.name)
        if unit.failed:
            await self._reject(task, model.name, unit.reason, unit.detail, unit.attempts, key)
            return unit
        # on reading, so that an answer that is stored already is cleaned as well
        return replace(unit, result={**unit.result, "text": visible_text(unit.result["text"])})

    async def _reject(
        self, stage: str, model: str, reason: str, detail: str, attempts: int = 1, key: str = ""
    ) -> None:
        said = visible_text(detail)
        reject = Reject(self.source.image_id, stage, model, reason, said, attempts)
        self.rejects[key or f"{stage} {reason}"] = reject


def _redacted(one: Candidate) -> Candidate:
    """The candidate without personal data in what is kept beside its text."""
    details = [replace(detail, text=redact_text(detail.text)) for detail in one.details]
    return replace(
        one,
        text=redact_text(one.text),
        generated=redact_text(one.generated),
        details=tuple(details),
    )


def _graph(fields: dict[str, Any]) -> SceneGraph:
    return SceneGraph(
        tuple(fields["objects"]),
        tuple((head, word) for head, word in fields["attributes"]),
        tuple((a, relation, b) for a, relation, b in fields["relations"]),
    )


def _usage(model: CaptionModel, unit: Unit) -> Usage:
    if unit.failed:
        return Usage(1, unit.attempts, seconds=unit.seconds)
    reply = unit.result
    return Usage(
        1,
        reply["attempts"],
        reply["prompt_tokens"],
        reply["completion_tokens"],
        reply["seconds"],
        _price(model, reply),
    )


def _price(model: CaptionModel, reply: dict[str, Any]) -> float:
    cost = getattr(model, "cost", None)
    return 0.0 if cost is None else float(cost(reply["prompt_tokens"], reply["completion_tokens"]))


def _sum(usages: Iterable[Usage]) -> Usage:
    usages = list(usages)
    return Usage(
        sum(one.requests for one in usages),
        sum(one.attempts for one in usages),
        sum(one.prompt_tokens for one in usages),
        sum(one.completion_tokens for one in usages),
        sum(one.seconds for one in usages),
        sum(one.cost for one in usages),
    )


__all__ = ["ImageStages"]
