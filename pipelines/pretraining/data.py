"""Reading, checking and splitting of image-text pairs."""

import hashlib
import inspect
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import datasets
import numpy as np
import pandas as pd
import PIL
import pyarrow as pa

from dataset_builders.captions import DROP_REASONS, caption_text
from dataset_builders.errors import DatasetError
from dataset_builders.images import BadImageError, decode_image, stored_bytes
from dataset_builders.schema import parse_config_name
from dataset_builders.storage import read_table
from modeling_urbanln import clean_text

from ..common.errors import InputError
from .arguments import DataArguments
from .candidates import CaptionCandidates, random_captions, read_candidates
from .tables import find_tables, load_captions, load_images

TOKENIZER_CHUNK = 1024
TRAIN, VALIDATION, HELD_OUT = "train", "validation", "held_out"


@dataclass(frozen=True)
class PairTable:
    """N image-text pairs of a run, in the order of the tables.

    Attributes:
        images: All rows of the image tables, memory-mapped, not decoded.
        rows: Row of each pair in `images`, `(N,)`.
        captions: N cleaned captions.
        num_tokens: Number of tokens of each caption, `(N,)`, at most `max_length`.
        sample_ids: Sample ids, `(N,)`, int64; pairs of equal id are positives of one another.
        train: Indices of the training pairs.
        validation: Indices of the validation pairs.
        listing: One row per pair: table, image_id, region_id, split.
        rejects: One row per rejected row: table, item, reason, detail.
        num_truncated: Number of captions longer than `max_length`.
        longest: Number of tokens of the longest caption.
        max_length: Limit in tokens, including start and end tokens.
        candidates: Caption candidates of the training pairs, None if captions are fixed.
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

    def fingerprint(self) -> str:
        """Hash of ids, order, splits and captions."""
        digest = hashlib.sha256()
        digest.update(self.listing.to_csv(index=False).encode())
        for caption in self.captions:
            digest.update(caption.as_py().encode() + b"\0")
        if self.candidates is not None:
            self.candidates.update_digest(digest)
        return digest.hexdigest()

    def summary(self) -> dict[str, Any]:
        """Numbers of pairs used, rejected and truncated."""
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
    """Read, check and split the image-text pairs.

    All images are decoded once (`datasets` caches the result), so that invalid images are rejected
    before training.

    Args:
        args: Tables and splits.
        tokenizer: Tokenizer that counts tokens.
        max_length: Limit in tokens.
        seed: Split seed.

    Raises:
        InputError: If there is no such table, a column is missing, no training pair remains, or
            fewer than two validation pairs do.
    """
    images, frame = _read_rows(args)
    _reject_rows(frame, images, args)
    rejected = frame["reason"].notna()
    rejects = frame.loc[rejected, ["table", "image_id", "reason", "detail"]]
    rejects = rejects.rename(columns={"image_id": "item"}).reset_index(drop=True)
    kept = frame.loc[~rejected]
    if len(kept) == 0:
        raise InputError(_nothing_left(args, rejects, len(frame)))

    load, count = partial(load_captions, args.dataset_name), partial(count_tokens, tokenizer)
    if args.caption_sampling == "random":
        kept = kept.assign(caption=random_captions(kept, load, count, max_length, seed))
    captions = pa.array(kept["caption"], type=pa.large_string())
    lengths = count(captions)
    num_tokens = np.minimum(lengths, max_length)
    kept = kept.assign(sample_id=_sample_ids(kept, args.positives))
    split = _split(kept, args, seed)
    listing = kept[["table", "image_id", "region_id"]].assign(split=split).reset_index(drop=True)
    candidates = None
    if args.caption_sampling == "score":
        candidates = read_candidates(listing, num_tokens, load, count, max_length)
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
        candidates=candidates,
    )


def _read_rows(args: DataArguments) -> tuple[datasets.Dataset, pd.DataFrame]:
    """Images of all tables, and their other columns with cleaned captions."""
    tables = find_tables(args)
    loaded = {name: load_images(args.dataset_name, name) for name in tables}
    parts = {name: part for name, part in loaded.items() if part is not None}
    if not parts:
        raise InputError(f"{args.dataset_name!r} is empty: {', '.join(tables)} have no rows.")
    images = (
        datasets.concatenate_datasets(list(parts.values()))
        if len(parts) > 1
        else (next(iter(parts.values())))
    )
    frame = images.select_columns(["image_id", "region_id", "caption"]).to_pandas()
    names = np.repeat(np.asarray(list(parts), dtype=object), [len(p) for p in parts.values()])
    frame.insert(0, "table", names)
    frame["city"] = [parse_config_name(name)[0] for name in names]
    texts = [text if isinstance(text, str) else None for text in frame["caption"]]
    cleaned = [caption_text(text) for text in texts]
    frame["caption"] = [text for text, _ in cleaned]
    frame["fault"] = [fault for _, fault in cleaned]
    frame["split"] = _stored_splits(args, frame)
    return images, frame


def count_tokens(tokenizer: Callable[..., Any], captions: pa.Array) -> np.ndarray:
    """Number of tokens of each caption before truncation, with start and end tokens, `(N,)`."""
    lengths: list[int] = []
    for start in range(0, len(captions), TOKENIZER_CHUNK):
        texts = [clean_text(one) for one in captions[start : start + TOKENIZER_CHUNK].to_pylist()]
        ids = tokenizer(texts, truncation=False, verbose=False)["input_ids"]
        lengths.extend(len(item) for item in ids)
    return np.asarray(lengths, dtype=np.int64)


def _stored_splits(args: DataArguments, frame: pd.DataFrame) -> pd.Series:
    """Split of each row's region; None if there is no such region."""
    if args.split_column == "none":
        return pd.Series(TRAIN, index=frame.index, dtype=object)
    splits = pd.Series(None, index=frame.index, dtype=object)
    for city, rows in frame.groupby("city"):
        try:
            columns = ["region_id", args.split_column]
            regions = read_table(args.dataset_name, str(city), "regions", columns=columns)
        except (DatasetError, KeyError, ValueError) as error:
            raise InputError(
                f"--split_column {args.split_column}: this column of the regions of {city!r} "
                f"cannot be read: {error}. `--split_column none` splits the images instead."
            ) from error
        by_region = regions.set_index("region_id")[args.split_column]
        by_region = by_region.where(by_region.isin([TRAIN, VALIDATION]), HELD_OUT)
        splits.loc[rows.index] = rows["region_id"].map(by_region).to_numpy(dtype=object)
    return splits


def _reject_rows(frame: pd.DataFrame, images: datasets.Dataset, args: DataArguments) -> None:
    """Add the columns `reason` and `detail`, null for usable rows."""
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
        ("unknown_region", "region missing in the table of regions", frame["split"].isna()),
    ]
    for code, text, mask in faults:
        fresh = mask & reason.isna()
        reason[fresh], detail[fresh] = code, text
    frame["reason"], frame["detail"] = reason, detail


def _decoder_version() -> str:
    """Part of the cache key: another decoder may accept other images."""
    return f"{PIL.__version__} {inspect.getsource(sys.modules[decode_image.__module__])}"


def _check_image(image: dict | None, decoder: str) -> dict[str, str]:
    try:
        if (data := stored_bytes(image)) is None:
            return {"reason": "no_image", "detail": "the image is null"}
        decode_image(data)
    except BadImageError as error:
        return {"reason": error.reason, "detail": str(error)}
    return {"reason": "", "detail": ""}


def _sample_ids(kept: pd.DataFrame, positives: str) -> np.ndarray:
    """Integer per image of a table, or per region of a city; -1 without region."""
    image = kept["table"] + "/" + kept["image_id"].astype(str)
    region = kept["city"] + "/" + kept["region_id"].astype(str)
    ids = pd.factorize(image if positives == "image" else region)[0].astype(np.int64)
    if positives == "region":
        ids[kept["region_id"].isna().to_numpy()] = -1
    return ids


def _split(kept: pd.DataFrame, args: DataArguments, seed: int) -> np.ndarray:
    split = kept["split"].to_numpy(dtype=object, copy=True)
    rng = np.random.default_rng((seed, 0))
    percentage = args.validation_split_percentage
    if args.split_column == "none" and percentage > 0:
        # by id, so that no image or region is in both splits
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
        raise InputError("The training split has no images.")
    if wanted and num_validation < 2:
        raise InputError(
            f"The validation split has {num_validation} pair(s) of {len(kept)}; retrieval needs at "
            "least two. Raise --validation_split_percentage, or set it to 0 with "
            "--split_column none to train without validation."
        )
    return split


def _nothing_left(args: DataArguments, rejects: pd.DataFrame, total: int) -> str:
    counts = ", ".join(f"{n} {reason}" for reason, n in Counter(rejects["reason"]).items())
    message = f"None of the {total} rows of {args.dataset_name!r} is usable: {counts}."
    first = rejects.iloc[0]
    message += f" The first, {first['item']}: {first['detail']}."
    if (rejects["reason"] == "empty_caption").any():
        message += " Pretraining needs captions in the `caption` column."
    return message


__all__ = ["PairTable", "count_tokens", "read_pairs"]
