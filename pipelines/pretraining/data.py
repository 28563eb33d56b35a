"""From the tables of a dataset to checked and split image-text pairs."""

import hashlib
import inspect
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import PIL
import pyarrow as pa
import pyarrow.parquet as pq

from dataset_builders.captions import DROP_REASONS, caption_text
from dataset_builders.errors import DatasetError
from dataset_builders.hub_errors import explain
from dataset_builders.images import BadImageError, decode_image, stored_bytes
from dataset_builders.schema import VIEWS, config_name, key_columns, parse_config_name
from dataset_builders.storage import list_tables, read_table
from dataset_builders.unique import KEYS_AT_ONCE, key_frame, require_unique
from modeling_urbanln import clean_text

from ..common.errors import InputError
from .arguments import DataArguments
from .candidates import CaptionCandidates, random_captions, read_candidates

REQUIRED_COLUMNS = ("image", "image_id", "region_id", "caption")
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
        RepeatedIdError: If a table has several rows for an id.
    """
    images, frame = _read_rows(args)
    _reject_rows(frame, images, args)
    rejected = frame["reason"].notna()
    rejects = frame.loc[rejected, ["table", "image_id", "reason", "detail"]]
    rejects = rejects.rename(columns={"image_id": "item"}).reset_index(drop=True)
    kept = frame.loc[~rejected]
    if len(kept) == 0:
        raise InputError(_nothing_left(args, rejects, len(frame)))

    load, count = partial(_load_captions, args.dataset_name), partial(count_tokens, tokenizer)
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


def _find_tables(args: DataArguments) -> list[str]:
    """Config names of the requested image tables, by city, then view."""
    configs = _config_names(args.dataset_name)
    have: dict[str, set[str]] = {}
    for name in configs:
        for view in VIEWS:
            if name.endswith(f"-{view}"):
                have.setdefault(parse_config_name(name)[0], set()).add(view)
    if not have:
        raise InputError(
            f"--dataset_name {args.dataset_name!r} has no table <city>-street_view or "
            f"<city>-satellite, only: {', '.join(configs) or 'none'}. "
            "See `python -m dataset_builders.importers --help` to import images."
        )
    cities, views = args.cities or sorted(have), args.views or VIEWS
    for city in cities:
        if city not in have:
            raise InputError(f"--cities: no images of {city!r}; available: {sorted(have)}.")
    for view in views:
        if view not in VIEWS:
            raise InputError(f"--views must be among {list(VIEWS)}, got {view!r}.")
    tables = [config_name(city, view) for city in cities for view in views if view in have[city]]
    if not tables:
        raise InputError(f"None of the cities {cities} has the views {views}; available: {have}.")
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
    """Load a table as memory-mapped Arrow; None if it has no rows.

    Loads local folders by their files: loaded by name, `datasets` would take the last part of the
    path as cache key, and return data of changed files or of another folder.
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
    if columns := key_columns(parse_config_name(table)[1], loaded.column_names):
        parts = loaded.select_columns(columns).with_format("arrow").iter(KEYS_AT_ONCE)
        where = f"{dataset_name}, table {table!r}"
        require_unique((key_frame(part, columns) for part in parts), where)
    return loaded


def _load_images(dataset_name: str, table: str) -> datasets.Dataset | None:
    """Load an image table without decoding images; None if it has no rows."""
    loaded = _load_table(dataset_name, table)
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
    """Load a table of caption candidates; None if there is none."""
    return _load_table(dataset_name, table) if table in _config_names(dataset_name) else None


def _read_rows(args: DataArguments) -> tuple[datasets.Dataset, pd.DataFrame]:
    """Images of all tables, and their other columns with cleaned captions."""
    tables = _find_tables(args)
    loaded = {name: _load_images(args.dataset_name, name) for name in tables}
    parts = {name: part for name, part in loaded.items() if part}
    if not parts:
        raise InputError(f"{args.dataset_name!r} is empty: {', '.join(tables)} have no rows.")
    images = datasets.concatenate_datasets(list(parts.values()))
    frame = images.select_columns(["image_id", "region_id", "caption"]).to_pandas()
    names = np.repeat(np.asarray(list(parts), dtype=object), [len(p) for p in parts.values()])
    frame.insert(0, "table", names)
    frame["city"] = [parse_config_name(name)[0] for name in names]
    texts = [text if isinstance(text, str) else None for text in frame["caption"]]
    frame["caption"], frame["fault"] = zip(*map(caption_text, texts), strict=True)
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
    num_validation = int((split == VALIDATION).sum())
    if not (split == TRAIN).any():
        raise InputError("The training split has no images.")
    if num_validation < 2 and (args.split_column != "none" or percentage > 0):
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
