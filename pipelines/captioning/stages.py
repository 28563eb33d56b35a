"""Stages of captioning an image: describe, filter, merge, consensus.

Each stage takes candidates and returns new ones. It reuses units from the ledger, and failures are
recorded as drop reasons and rejects.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from dataset_builders.captions import has_template_token, strip_template, visible_text
from dataset_builders.images import BadImageError

from .capture import REVISION as CAPTURE_REVISION
from .capture import choose, consensus_scores
from .capture_parsing import parsed_caption, parsing_revision
from .filters import Answer
from .kit import Kit, in_threads
from .ledger import DETAIL_LENGTH, Ledger, Unit, unit_key
from .phrases import RULES_VERSION as FILTER_RULES
from .phrases import phrases_of, score_phrases, texts_to_ask
from .privacy import ModelImage, redact_text, scan_text
from .records import (
    Box,
    Candidate,
    CaptionModel,
    LocalCaption,
    Phrase,
    Reply,
    Request,
    Sampling,
    SceneGraph,
    Scores,
    SourceImage,
    Usage,
)
from .refine import apply_merge, fall_back, rejected_phrases, supported_details
from .scene_graph import split_sentences
from .segment import BOXES_REVISION, salient_boxes
from .tables import Reject
from .text import tidy_caption

SHORT = Sampling(temperature=0.2, top_p=1.0, max_tokens=64)
REFINED = Sampling(temperature=0.0, top_p=1.0, max_tokens=500)
"""Sampling parameters of local and refined captions; the recipe sets those of long captions."""


async def caption_image(
    kit: Kit, ledger: Ledger, source: SourceImage
) -> tuple[list[Candidate], list[Reject]]:
    """Run all stages for an image.

    Args:
        kit: Models and components.
        ledger: Units of the image's shard.
        source: Image.

    Returns:
        Candidates, one of them chosen unless all were dropped, and rejects.

    Raises:
        ModelUnavailableError: No request to a model can succeed.
    """
    return await _ImageRun(kit, ledger, source).run()


class _ImageRun:
    """Stages of one image, and its rejects."""

    def __init__(self, kit: Kit, ledger: Ledger, source: SourceImage):
        self.kit, self.recipe, self.ledger = kit, kit.recipe, ledger
        self.source, self.image = source, ModelImage(source, kit.blurrer)
        self.rejects: dict[str, Reject] = {}

    async def run(self) -> tuple[list[Candidate], list[Reject]]:
        try:
            reason, detail = await asyncio.to_thread(
                lambda: self.kit.filters.image_reason(self.image.pixels, self.source.image_id)
            )
        except BadImageError as error:
            reason, detail = error.reason, str(error)
        if reason:
            return [], [Reject(self.source.image_id, "image", "", reason, detail)]
        candidates = await self.describe()
        if self.recipe.refine and self.kit.filters.phrases:
            candidates = await self.filter(candidates)
        candidates = await self.consensus(await self.merge(candidates))
        if not any(one.chosen for one in candidates):
            reasons = sorted({one.drop_reason for one in candidates})
            self._reject("image", "", "no_caption", ", ".join(reasons))
        if self.recipe.privacy.redact:
            candidates = [_redacted(one) for one in candidates]
        return candidates, list(self.rejects.values())

    # ---- describe -------------------------------------------------------------------------------

    async def describe(self) -> list[Candidate]:
        """Generate the long captions and the local captions of all models."""
        boxes = await self._boxes() if self.recipe.refine else ()
        models = self.kit.models.values()
        groups = await asyncio.gather(*(self._of_model(model, boxes) for model in models))
        return [candidate for group in groups for candidate in group]

    async def _boxes(self) -> tuple[Box, ...]:
        def find() -> tuple[Box, ...]:
            image = self.image.pixels
            return salient_boxes(self.kit.segmenter.masks(image), (image.height, image.width))

        unit = await self._once(
            "segment",
            lambda: asyncio.to_thread(find),
            revision=self.kit.segmenter.revision,
            rules=BOXES_REVISION,
        )
        return tuple(Box(**box) for box in unit.result)

    async def _of_model(self, model: CaptionModel, boxes: Sequence[Box]) -> list[Candidate]:
        number = self.recipe.generate.captions_per_model
        (details, usage), candidates = await asyncio.gather(
            self._details(model, boxes),
            asyncio.gather(*(self._long(model, index) for index in range(number))),
        )
        # the cost of local captions is attributed to the model's first caption
        candidates[0] = replace(candidates[0], usage=candidates[0].usage + usage)
        return [one if one.drop_reason else replace(one, details=details) for one in candidates]

    async def _long(self, model: CaptionModel, index: int) -> Candidate:
        settings = self.recipe.generate
        prompt, version = self.kit.prompts.describe(self.source.view)
        sampling = Sampling(
            settings.temperature[index % len(settings.temperature)],
            settings.top_p,
            settings.max_tokens,
            self.recipe.seed + index,
        )
        unit = await self._ask(model, "describe", prompt, sampling)
        candidate = Candidate(
            self.source.image_id,
            self.source.sha256,
            self.source.view,
            model.name,
            model.revision,
            version,
            index,
            sampling,
            usage=_usage(model, unit),
        )
        if unit.failed:
            return replace(candidate, drop_reason=unit.reason)
        generated, finish_reason = unit.result["text"], unit.result["finish_reason"]
        text, flags = tidy_caption(generated)
        return replace(
            candidate,
            text=text,
            generated=generated,
            finish_reason=finish_reason,
            flags=tuple(flags),
            drop_reason=self.kit.filters.text_reason(Answer(text, finish_reason, prompt)),
        )

    async def _details(
        self, model: CaptionModel, boxes: Sequence[Box]
    ) -> tuple[tuple[LocalCaption, ...], Usage]:
        prompt = self.kit.prompts.local(self.source.view)
        sampling = replace(SHORT, seed=self.recipe.seed)
        units = await asyncio.gather(
            *(self._ask(model, "local", prompt, sampling, box=box) for box in boxes)
        )
        details = [self._local(box, model, unit) for box, unit in zip(boxes, units, strict=True)]
        return tuple(details), sum((_usage(model, unit) for unit in units), Usage())

    def _local(self, box: Box, model: CaptionModel, unit: Unit) -> LocalCaption:
        if unit.failed:
            return LocalCaption(box, "", unit.reason)
        text = strip_template(unit.result["text"])
        reason = "" if text else "empty"
        if has_template_token(text):
            text, reason = "", "template_token"
        if reason:
            detail = unit.result["text"][:DETAIL_LENGTH]
            self._reject("local", model.name, reason, detail, key=unit.key)
        return LocalCaption(box, text, reason)

    # ---- filter ---------------------------------------------------------------------------------

    async def filter(self, candidates: list[Candidate]) -> list[Candidate]:
        """Extract the phrases of all captions and score them against the image."""
        phrases = await asyncio.gather(*(self._phrases(one) for one in candidates))
        threshold = self.recipe.filter.threshold

        async def score() -> list[tuple[Phrase, ...]]:
            texts = texts_to_ask([phrase for group in phrases for phrase in group])
            if not texts:
                return phrases
            detect = self.kit.detector.detect
            scores = await in_threads(self.kit.in_detector, detect, self.source, texts)
            return [score_phrases(group, texts, scores, threshold) for group in phrases]

        unit = await self._once(
            "filter",
            score,
            detector=self.kit.detector.revision,
            rules=FILTER_RULES,
            threshold=threshold,
            phrases=phrases,
        )
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
        graphs, *of_local = await asyncio.gather(
            self._graphs(one.text), *(self._graphs(text) for text in local)
        )
        return phrases_of(split_sentences(one.text), graphs, local, of_local)

    async def _graphs(self, text: str) -> list[SceneGraph]:
        if not (sentences := split_sentences(text)):
            return []
        key = unit_key("parse", revision=self.kit.parser.revision, text=text)

        async def parse() -> list[SceneGraph]:
            return await in_threads(self.kit.in_parser, self.kit.parser.parse, sentences)

        unit = await self.ledger.once(key, "parse", self.source.image_id, parse)
        return [_graph(fields) for fields in unit.result]

    # ---- merge ----------------------------------------------------------------------------------

    async def merge(self, candidates: list[Candidate]) -> list[Candidate]:
        """Let each model rewrite its captions, with details and without unsupported phrases."""
        return list(await asyncio.gather(*(self._merge(one) for one in candidates)))

    async def _merge(self, one: Candidate) -> Candidate:
        if one.drop_reason:
            return one
        details, rejected = supported_details(one, self.kit.filters), rejected_phrases(one)
        if not details and not rejected:
            return self._private(replace(one, stage="merge"))
        model = self.kit.models[one.model]
        prompt = self.kit.prompts.merge(one.view, one.text, details, rejected)
        sampling = replace(REFINED, seed=one.sampling.seed)
        inputs: dict[str, Any] = {"caption": one.text, "details": details, "rejected": rejected}
        unit = await self._ask(model, "merge", prompt, sampling, **inputs)
        if unit.failed:
            merged = fall_back(one, unit.reason, self.kit.filters)
        else:
            text, finish_reason = unit.result["text"], unit.result["finish_reason"]
            merged = apply_merge(one, text, self.kit.filters, finish_reason)
        return self._private(replace(merged, usage=one.usage + _usage(model, unit)))

    def _private(self, one: Candidate) -> Candidate:
        """Flag personal data in the text, and replace it if the recipe says so."""
        text = redact_text(one.text) if self.recipe.privacy.redact else one.text
        return replace(one, text=text, flags=(*one.flags, *scan_text(one.text)))

    # ---- consensus ------------------------------------------------------------------------------

    async def consensus(self, candidates: list[Candidate]) -> list[Candidate]:
        """Compute consensus scores and choose the best candidate."""
        settings = self.recipe.consensus
        candidates = await asyncio.to_thread(lambda: [self._judged(one) for one in candidates])
        texts = ["" if one.drop_reason else one.text for one in candidates]
        models = [one.model for one in candidates]
        graphs = await asyncio.gather(*(self._graphs(text) for text in texts))

        def score() -> list[Scores]:
            parsed = [
                parsed_caption(split_sentences(text), of_text) if text else None
                for text, of_text in zip(texts, graphs, strict=True)
            ]
            return consensus_scores(
                parsed, self.kit.encode, models=models, texts=texts, weights=settings.weights
            )

        unit = await self._once(
            "consensus",
            lambda: in_threads(self.kit.in_consensus, score),
            weights=settings.weights,
            encoder=self.kit.encode.revision,
            parser=self.kit.parser.revision,
            capture=[CAPTURE_REVISION, parsing_revision()],
            texts=texts,
            models=models,
        )
        scored = [
            one if one.drop_reason else replace(one, stage="consensus", scores=Scores(**fields))
            for one, fields in zip(candidates, unit.result, strict=True)
        ]
        best = choose(scored, self.recipe.model_names)
        return [replace(one, chosen=index == best) for index, one in enumerate(scored)]

    def _judged(self, one: Candidate) -> Candidate:
        """Drop the candidate if a caption filter applies."""
        if one.drop_reason:
            return one
        reason = self.kit.filters.caption_reason(self.image.pixels, one.text)
        return replace(one, drop_reason=reason)

    # ---- units ----------------------------------------------------------------------------------

    async def _once(self, stage: str, compute: Any, **parts: Any) -> Unit:
        """Get or compute a unit of this image without a captioning model."""
        key = unit_key(stage, image=self.source.sha256, **parts)
        return await self.ledger.once(key, stage, self.source.image_id, compute)

    async def _ask(
        self,
        model: CaptionModel,
        task: Any,
        prompt: str,
        sampling: Sampling,
        box: Box | None = None,
        **inputs: Any,
    ) -> Unit:
        """Get or request an answer of a model; a failure is recorded as a reject.

        `inputs` are the `caption`, `details` and `rejected` phrases of a merge, which are also part
        of the prompt.
        """
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

        async def ask() -> Reply:
            image = await asyncio.to_thread(self.image.encode, box, blurred)
            one = self.source
            ids = (one.image_id, one.sha256, one.view)
            return await model.complete(Request(task, prompt, image, sampling, *ids, box, **inputs))

        unit = await self.ledger.once(key, task, self.source.image_id, ask, model.name)
        if unit.failed:
            self._reject(task, model.name, unit.reason, unit.detail, unit.attempts, key)
            return unit
        # cleaned on reading, which includes answers stored by earlier versions
        return replace(unit, result={**unit.result, "text": visible_text(unit.result["text"])})

    def _reject(
        self, stage: str, model: str, reason: str, detail: str, attempts: int = 1, key: str = ""
    ) -> None:
        self.rejects[key or f"{stage} {reason}"] = Reject(
            self.source.image_id, stage, model, reason, visible_text(detail), attempts
        )


def _redacted(one: Candidate) -> Candidate:
    details = [replace(detail, text=redact_text(detail.text)) for detail in one.details]
    return replace(
        one,
        text=redact_text(one.text),
        generated=redact_text(one.generated),
        details=tuple(details),
    )


def _graph(fields: dict[str, Any]) -> SceneGraph:
    pairs, triples = map(tuple, fields["attributes"]), map(tuple, fields["relations"])
    return SceneGraph(tuple(fields["objects"]), tuple(pairs), tuple(triples))


def _usage(model: CaptionModel, unit: Unit) -> Usage:
    if unit.failed:
        return Usage(1, unit.attempts, seconds=unit.seconds)
    reply = Reply(**unit.result)
    tokens = (reply.prompt_tokens, reply.completion_tokens)
    cost = float(model.cost(*tokens)) if hasattr(model, "cost") else 0.0
    return Usage(1, reply.attempts, *tokens, reply.seconds, cost)
