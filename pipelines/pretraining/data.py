"""From the Parquet tables of a dataset to batches; images stay on disk until they are needed."""

import inspect
import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import PIL
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from dataset_builders.captions import DROP_REASONS, caption_text
from dataset_builders.errors import DatasetError
from dataset_builders.hub_errors import explain
from dataset_builders.images import BadImageError, decode_image, stored_bytes
from dataset_builders.schema import VIEWS, config_name, key_columns, parse_config_name
from dataset_builders.storage import list_tables, read_table
from dataset_builders.unique import KEYS_AT_ONCE, RepeatedIdError, key_frame, require_unique
from modeling_urbanln import UrbanLNProcessor, clean_text

from .arguments import DataArguments
from .candidates import CaptionCandidates, random_captions, read_candidates
from .errors import InputError
from .sampling import BatchIndices

REQUIRED_COLUMNS = ("image", "image_id", "region_id", "caption")
SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])\s*")
TOKENIZER_CHUNK = 1024
TRAIN, VALIDATION, HELD_OUT = "train", "validation", "held_out"


@dataclass(frozen=True)
class PairTable:
    """The image-text pairs of a run; N of them, in the order of the tables.

    Attributes:
        images: every row of the image tables, memory-mapped, bytes not decoded.
        rows: `(N,)`, the row of each pair in `images`.
        captions: N cleaned captions.
        num_tokens: `(N,)`, start and end token included, at most `max_length`.
        sample_ids: `(N,)` int64, equal where two pairs are positives of one another.
        train: indices of the training pairs.
        validation: indices of the validation pairs.
        listing: a row per pair: table, image_id, region_id, split.
        rejects: a row per row left out: table, item, reason, detail.
        num_truncated: pairs whose caption is longer than `max_length`.
        longest: tokens of the longest caption.
        max_length: what the model takes.
        candidates: what the training captions are drawn from; None: each image has one.
    """

    images: datasets.Dataset
    rows: np.ndarray
    captions: pa.Array
    num_tokens: np.ndarray
    sample_ids: np.ndarray
    train: np.ndarray
    validation: np.ndarray
    listing: pd.DataFrame
    rejects: pd.DataFrame
    num_truncated: int
    longest: int
    max_length: int
    candidates: CaptionCandidates | None = None

    def summary(self) -> dict[str, Any]:
        """What was kept, left out and cut."""
        total = len(self.rows)
        return {
            "num_train": len(self.train),
            "num_validation": len(self.validation),
            "num_held_out": int((self.listing["split"] == HELD_OUT).sum()),
            "num_rejected": len(self.rejects),
            "rejected": dict(Counter(self.rejects["reason"])),
            "num_truncated_captions": self.num_truncated,
            "truncation_rate": self.num_truncated / total if total else 0.0,
            "longest_caption_tokens": self.longest,
            "max_length": self.max_length,
        }


def read_pairs(
    args: DataArguments, tokenizer: Callable[..., Any], max_length: int, seed: int
) -> PairTable:
    """Read, check and split the pairs that the arguments name.

    Every image is decoded once (the library caches the outcome), so that what cannot be used is
    known and counted before training, and the order of the data does not depend on it.

    Args:
        args: which tables, and how to split them.
        tokenizer: counts tokens.
        max_length: of the model, in tokens.
        seed: of the split.

    Raises:
        InputError: no such table, a missing column, nothing left to train on, or a validation
            split of one pair.
    """
    tables = _find_tables(args)
    loaded = {name: _load_table(args.dataset_name, name) for name in tables}
    parts = [part for part in loaded.values() if part is not None]
    if not parts:
        raise InputError(f"{args.dataset_name!r} is empty: {', '.join(tables)} have no rows.")
    tables = [name for name, part in loaded.items() if part is not None]
    images = datasets.concatenate_datasets(parts) if len(parts) > 1 else parts[0]
    names = np.repeat(np.asarray(tables, dtype=object), [len(part) for part in parts])
    frame = images.select_columns(["image_id", "region_id", "caption"]).to_pandas()
    frame.insert(0, "table", names)
    frame["city"] = [parse_config_name(name)[0] for name in names]
    cleaned = [caption_text(_text_or_none(text)) for text in frame["caption"]]
    frame["caption"] = [text for text, _ in cleaned]
    frame["fault"] = [fault for _, fault in cleaned]
    frame["split"] = _stored_splits(args, frame)
    _reject_rows(frame, images, args)

    rejected = frame["reason"].notna()
    rejects = frame.loc[rejected, ["table", "image_id", "reason", "detail"]]
    rejects = rejects.rename(columns={"image_id": "item"}).reset_index(drop=True)
    kept = frame.loc[~rejected]
    if len(kept) == 0:
        raise InputError(_nothing_left(args, rejects, len(frame)))
    sources: dict[str, Any] = {
        "load_table": lambda name: _load_captions(args.dataset_name, name),
        "count_tokens": lambda texts: count_tokens(texts, tokenizer),
        "max_length": max_length,
    }
    if args.caption_sampling == "random":
        own = kept["caption"].tolist()
        kept = kept.assign(caption=random_captions(kept, own, seed=seed, **sources))
    captions = pa.array(kept["caption"], type=pa.large_string())
    lengths = count_tokens(captions, tokenizer)
    kept = kept.assign(sample_id=_sample_ids(kept, args.positives))
    split = _split(kept, args, seed)
    listing = kept[["table", "image_id", "region_id"]].assign(split=split).reset_index(drop=True)
    num_tokens = np.minimum(lengths, max_length)
    return PairTable(
        images=images,
        rows=kept.index.to_numpy(),
        captions=captions,
        num_tokens=num_tokens,
        sample_ids=kept["sample_id"].to_numpy(),
        train=np.flatnonzero(split == TRAIN),
        validation=np.flatnonzero(split == VALIDATION),
        listing=listing,
        rejects=rejects,
        num_truncated=int((lengths > max_length).sum()),
        longest=int(lengths.max()),
        max_length=max_length,
        candidates=(
            read_candidates(listing, num_tokens, **sources)
            if args.caption_sampling == "score"
            else None
        ),
    )


def count_tokens(captions: pa.Array, tokenizer: Callable[..., Any]) -> np.ndarray:
    """Tokens of each caption, start and end token included, before any truncation: `(N,)`."""
    lengths: list[int] = []
    for start in range(0, len(captions), TOKENIZER_CHUNK):
        texts = [clean_text(one) for one in captions[start : start + TOKENIZER_CHUNK].to_pylist()]
        ids = tokenizer(texts, truncation=False, verbose=False)["input_ids"]
        lengths.extend(len(item) for item in ids)
    return np.asarray(lengths, dtype=np.int64)


def shuffle_sentences(caption: str, rng: np.random.Generator) -> str:
    """The caption with its sentences in another order."""
    sentences = [part for part in SENTENCE_END.split(caption) if part]
    return " ".join(sentences[index] for index in rng.permutation(len(sentences)))


def tokenize(
    texts: Sequence[str],
    tokenizer: Any,
    max_length: int,
    pad_to_multiple_of: int | None = None,
) -> dict[str, torch.Tensor]:
    """Token ids padded to the longest of the batch, `(batch, longest)`; never past `max_length`.

    Args:
        texts: the batch.
        tokenizer: CLIP's.
        max_length: texts are cut there; the end token stays.
        pad_to_multiple_of: round the length up, within `max_length`.
    """
    rows = tokenizer([clean_text(one) for one in texts], truncation=True, max_length=max_length)[
        "input_ids"
    ]
    length = max(len(row) for row in rows)
    if pad_to_multiple_of:
        length = min(max_length, -(-length // pad_to_multiple_of) * pad_to_multiple_of)
    input_ids = torch.full((len(rows), length), tokenizer.pad_token_id, dtype=torch.int64)
    attention_mask = torch.zeros_like(input_ids)
    for index, row in enumerate(rows):
        input_ids[index, : len(row)] = torch.tensor(row)
        attention_mask[index, : len(row)] = 1
    return {"input_ids": input_ids, "attention_mask": attention_mask}


class PairBatches(TorchDataset):
    """Ready batches by their indices: one item is one whole batch.

    Args:
        pairs: where the images and captions are.
        processor: image processor and tokenizer.
        pad_to_multiple_of: see [`tokenize`].
        shuffle_seed: draw the order of the sentences anew from this seed and the epoch; None
            leaves it.
        draw_seed: draw one of each image's candidates anew from this seed and the epoch; None
            takes the image's own caption.
    """

    def __init__(
        self,
        pairs: PairTable,
        processor: UrbanLNProcessor,
        pad_to_multiple_of: int | None = None,
        shuffle_seed: int | None = None,
        draw_seed: int | None = None,
    ):
        self.pairs = pairs
        self.processor = processor
        self.pad_to_multiple_of = pad_to_multiple_of
        self.shuffle_seed = shuffle_seed
        self.draw_seed = draw_seed

    def __getitem__(self, batch: BatchIndices) -> dict[str, torch.Tensor]:
        """`input_ids`, `attention_mask`, `pixel_values` and `sample_ids` of a batch."""
        tokens = tokenize(
            self._captions(batch),
            self.processor.tokenizer,
            self.pairs.max_length,
            self.pad_to_multiple_of,
        )
        stored = self.pairs.images[self.pairs.rows[batch.indices].tolist()]["image"]
        decoded = [decode_image(stored_bytes(image) or b"") for image in stored]
        pixels = self.processor.image_processor(decoded, return_tensors="pt")["pixel_values"]
        sample_ids = torch.from_numpy(self.pairs.sample_ids[batch.indices])
        return {**tokens, "pixel_values": pixels, "sample_ids": sample_ids}

    def _captions(self, batch: BatchIndices) -> list[str]:
        captions = [self.pairs.captions[index].as_py() for index in batch.indices.tolist()]
        candidates = self.pairs.candidates
        if candidates is not None and self.draw_seed is not None:
            drawn = candidates.draw(self.draw_seed, batch.epoch)[batch.indices]
            places = np.flatnonzero(drawn >= 0)
            for place, text in zip(places.tolist(), candidates.texts(drawn[places]), strict=True):
                captions[place] = text
        if self.shuffle_seed is None:
            return captions
        # seeded by the pair, not by the worker: any number of workers draws the same
        return [
            shuffle_sentences(
                caption, np.random.default_rng((self.shuffle_seed, batch.epoch, index))
            )
            for index, caption in zip(batch.indices.tolist(), captions, strict=True)
        ]


def batch_loader(
    batches: PairBatches, plan: Sequence[BatchIndices] | Any, num_workers: int, pin_memory: bool
) -> DataLoader:
    """Load the batches that the plan yields, in its order.

    Args:
        batches: makes them.
        plan: iterable of `BatchIndices`.
        num_workers: processes that do it ahead of time; 0: in this one, when asked.
        pin_memory: for the copy to an accelerator.
    """
    return DataLoader(
        batches,
        sampler=_Once(plan),
        batch_size=None,
        collate_fn=_as_is,
        num_workers=num_workers,
        pin_memory=pin_memory,
        # of its own, so that starting workers draws nothing from the state a checkpoint holds
        generator=torch.Generator(),
    )


class _Once(torch.utils.data.Sampler):
    """Yields the plan, which need not know its length."""

    def __init__(self, plan: Any):
        self.plan = plan

    def __iter__(self) -> Any:
        return iter(self.plan)


def _as_is(batch: Any) -> Any:
    return batch


def _find_tables(args: DataArguments) -> list[str]:
    """Config names of the image tables asked for, by city, then view."""
    configs = _config_names(args.dataset_name)
    have: dict[str, set[str]] = {}
    for name in configs:
        for view in VIEWS:
            if name.endswith(f"-{view}"):
                have.setdefault(parse_config_name(name)[0], set()).add(view)
    if not have:
        raise InputError(
            f"--dataset_name {args.dataset_name!r} has no table <city>-street_view or "
            f"<city>-satellite; its configs: {', '.join(configs) or 'none'}. "
            "`python -m dataset_builders.importers --help` shows how to import images."
        )
    cities = args.cities or sorted(have)
    for city in cities:
        if city not in have:
            raise InputError(f"--cities: no images of {city!r}; there are: {sorted(have)}.")
    views = args.views or [view for view in VIEWS if any(view in have[city] for city in cities)]
    for view in views:
        if view not in VIEWS:
            raise InputError(f"--views must be of {list(VIEWS)}, got {view!r}.")
    tables = [config_name(city, view) for city in cities for view in views if view in have[city]]
    if not tables:
        raise InputError(f"None of the cities {cities} has the views {views}; there are {have}.")
    return tables


def _config_names(dataset_name: str) -> list[str]:
    try:
        if Path(dataset_name).is_dir():
            return [config_name(*pair) for pair in list_tables(dataset_name)]
        return datasets.get_dataset_config_names(dataset_name)
    except (DatasetError, FileNotFoundError, ConnectionError, ValueError) as error:
        said = explain(error, dataset_name) or error
        raise InputError(f"--dataset_name {dataset_name!r} cannot be read: {said}") from error


def _load_table(dataset_name: str, table: str) -> datasets.Dataset | None:
    """An image table as memory-mapped Arrow, bytes not decoded; None if it has no rows."""
    loaded = _load_rows(dataset_name, table)
    if loaded is None:
        return None
    missing = [name for name in REQUIRED_COLUMNS if name not in loaded.column_names]
    if missing:
        raise InputError(
            f"The table {table!r} of {dataset_name!r} lacks the column(s) {', '.join(missing)}; "
            f"it has {', '.join(loaded.column_names)}."
        )
    loaded = loaded.select_columns(list(REQUIRED_COLUMNS))
    return loaded.cast_column("image", datasets.Image(decode=False))


def _load_captions(dataset_name: str, table: str) -> datasets.Dataset | None:
    """A table of candidates; None if there is none."""
    return _load_rows(dataset_name, table) if table in _config_names(dataset_name) else None


def _load_rows(dataset_name: str, table: str) -> datasets.Dataset | None:
    """A table as memory-mapped Arrow; None if it has no rows, which the library cannot load.

    By its files: a local folder loaded by its name comes from the library's cache under the last
    part of that name, also after its files have changed, and also for another folder of that name.
    """
    folder = Path(dataset_name)
    if folder.is_dir():
        files = [str(path) for path in sorted((folder / "data" / table).glob("part-*.parquet"))]
        if sum(pq.read_metadata(path).num_rows for path in files) == 0:
            return None
    else:
        builder = datasets.load_dataset_builder(dataset_name, table)
        files = list((builder.config.data_files or {})["train"])
    try:
        loaded = datasets.load_dataset("parquet", data_files=files, split="train")
    except (ValueError, datasets.exceptions.DatasetGenerationError) as error:
        message = f"The table {table!r} of {dataset_name!r} cannot be read: {error}"
        raise InputError(message) from error
    _check_ids(loaded, table, f"{dataset_name}, table {table!r}")
    return loaded


def _check_ids(loaded: datasets.Dataset, table: str, where: str) -> None:
    """Refuse a table with an id in two rows: a pair twice in a batch is no negative of itself."""
    columns = key_columns(parse_config_name(table)[1], loaded.column_names)
    if not columns:
        return
    parts = loaded.select_columns(columns).with_format("arrow").iter(KEYS_AT_ONCE)
    try:
        require_unique((key_frame(part, columns) for part in parts), where)
    except RepeatedIdError as error:
        raise InputError(str(error)) from error


def _stored_splits(args: DataArguments, frame: pd.DataFrame) -> pd.Series:
    """The split of each row's region: a name, HELD_OUT, or None where there is no such region."""
    if args.split_column == "none":
        return pd.Series(TRAIN, index=frame.index, dtype=object)
    splits = pd.Series(None, index=frame.index, dtype=object)
    for city, rows in frame.groupby("city"):
        try:
            columns = ["region_id", args.split_column]
            regions = read_table(args.dataset_name, str(city), "regions", columns=columns)
        except (DatasetError, KeyError, ValueError) as error:
            raise InputError(
                f"--split_column {args.split_column}: the regions of {city!r} cannot be read with "
                f"that column: {error}. `--split_column none` splits the images instead."
            ) from error
        by_region = regions.set_index("region_id")[args.split_column]
        by_region = by_region.where(by_region.isin([TRAIN, VALIDATION]), HELD_OUT)
        splits.loc[rows.index] = rows["region_id"].map(by_region).to_numpy(dtype=object)
    return splits


def _reject_rows(frame: pd.DataFrame, images: datasets.Dataset, args: DataArguments) -> None:
    """Add the columns `reason` and `detail`: null in the rows that can be used."""
    checked = images.select_columns(["image"]).map(
        _check_image,
        input_columns=["image"],
        remove_columns=["image"],
        fn_kwargs={"decoder": _decoder_version()},
        num_proc=args.dataloader_num_workers if args.dataloader_num_workers > 1 else None,
        desc="Checking images",
    )
    reason = pd.Series(list(checked["reason"]), index=frame.index, dtype=object)
    detail = pd.Series(list(checked["detail"]), index=frame.index, dtype=object)
    reason = reason.where(reason != "", None)
    faults = [
        *((code, text, frame["fault"] == code) for code, text in DROP_REASONS.items()),
        ("unknown_region", "its region is not in the table of regions", frame["split"].isna()),
    ]
    for code, text, mask in faults:
        fresh = mask & reason.isna()
        reason[fresh], detail[fresh] = code, text
    frame["reason"], frame["detail"] = reason, detail


def _decoder_version() -> str:
    """Part of the cache key of the check: another decoder may judge otherwise."""
    return f"{PIL.__version__} {inspect.getsource(sys.modules[decode_image.__module__])}"


def _check_image(image: dict | None, decoder: str) -> dict[str, str]:
    try:
        if (data := stored_bytes(image)) is None:
            return {"reason": "no_image", "detail": "the image is null"}
        decode_image(data)
    except BadImageError as error:
        return {"reason": error.reason, "detail": str(error)}
    return {"reason": "", "detail": ""}


def _text_or_none(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _sample_ids(kept: pd.DataFrame, positives: str) -> np.ndarray:
    """One number per image of a table, or per region of a city; -1 where there is no region."""
    image = kept["table"] + "/" + kept["image_id"].astype(str)
    region = kept["city"] + "/" + kept["region_id"].astype(str)
    ids = pd.factorize(image if positives == "image" else region)[0].astype(np.int64)
    if positives == "region":
        ids[kept["region_id"].isna().to_numpy()] = -1
    return ids


def _split(kept: pd.DataFrame, args: DataArguments, seed: int) -> np.ndarray:
    """TRAIN, VALIDATION or HELD_OUT for each kept row."""
    split = kept["split"].to_numpy(dtype=object, copy=True)
    rng = np.random.default_rng((seed, 0))
    percentage = args.validation_split_percentage
    if args.split_column == "none" and percentage > 0:
        # by id, so that no image (or region) is on both sides
        ids = kept["sample_id"].to_numpy()
        unique = np.unique(ids[ids >= 0])
        count = round(len(unique) * percentage / 100)
        split[np.isin(ids, rng.permutation(unique)[:count])] = VALIDATION
    for name, limit in ((TRAIN, args.max_train_samples), (VALIDATION, args.max_eval_samples)):
        indices = np.flatnonzero(split == name)
        if limit is not None and limit < len(indices):
            split[rng.permutation(indices)[limit:]] = HELD_OUT
    wanted = args.split_column != "none" or percentage > 0
    num_validation = int((split == VALIDATION).sum())
    if not (split == TRAIN).any():
        raise InputError("No image is left for training: the split puts none there.")
    if wanted and num_validation < 2:
        raise InputError(
            f"The validation split has {num_validation} pair(s) of {len(kept)}, and retrieval "
            "needs two at least. Raise --validation_split_percentage, or set it to 0 with "
            "--split_column none to train without validation."
        )
    return split


def _nothing_left(args: DataArguments, rejects: pd.DataFrame, total: int) -> str:
    counts = ", ".join(f"{n} {reason}" for reason, n in Counter(rejects["reason"]).items())
    message = f"None of the {total} rows of {args.dataset_name!r} can be used: {counts}."
    first = rejects.iloc[0]
    message += f" The first, {first['item']}: {first['detail']}."
    if (rejects["reason"] == "empty_caption").any():
        message += " Pretraining needs captions: write them into the `caption` column first."
    return message


__all__ = [
    "PairBatches",
    "PairTable",
    "batch_loader",
    "count_tokens",
    "read_pairs",
    "shuffle_sentences",
    "tokenize",
]
