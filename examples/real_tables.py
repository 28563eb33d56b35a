"""Comparison of captions, images and coordinates as predictors of real labels.

    python -m examples.real_tables --data DATA --output_dir runs/real_tables
    python -m examples.real_tables ... --only beijing
    python -m examples.real_tables ... --model runs/real/model        adds the towers of an UrbanLN
    python -m examples.real_tables ... --clip CLIP_FOLDER             adds frozen CLIP

`DATA` holds `urbanclip_toolkit/`, `streetview_nyc/`, `king_county/` and `camvid/`; `python -m
dataset_builders.importers urbanclip --help` and `python -m examples.importers NAME --help` describe
their layouts. Writes `tables.csv`, one row per table, system, probe and indicator. Rerun the
command to resume. The results are in `docs/results/real_tables.csv`.
"""

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dataset_builders.coordinates import tile_corner
from dataset_builders.importers import urbanclip
from dataset_builders.importers.base import import_dataset
from examples.importers import camvid, king_county, streetview_nyc
from pipelines.captioning.encoder import DEFAULT_ENCODER, SentenceEncoder, sentence_encoder
from pipelines.common.encoders.colour_texture import ColourTextureEncoder
from pipelines.common.encoders.transformers_models import load_model_encoder
from pipelines.evaluation.analysis.bootstrap import COORDINATES, Reference, compare
from pipelines.evaluation.analysis.conformal import Coverage, measure_coverage
from pipelines.evaluation.baselines.run import run_baseline
from pipelines.evaluation.embed.captions import (
    RegionCaptions,
    embed_text_tower,
    embed_tfidf,
    read_captions,
)
from pipelines.evaluation.embed.images import embed
from pipelines.evaluation.embed.sources import open_images
from pipelines.evaluation.embed.tables import read_embeddings, write_embeddings
from pipelines.evaluation.embed.text_tower import TextTower, load_text_tower
from pipelines.evaluation.probe.city import City, open_city
from pipelines.evaluation.probe.results import ResultRow, read_rows
from pipelines.evaluation.probe.run import ProbeSettings, probe
from pipelines.evaluation.probe.splits import geography
from pipelines.evaluation.probe.systems import split_name

# importer, data folder and city of each section
PLACES = {
    "beijing": (urbanclip, "urbanclip_toolkit", "beijing"),
    "new_york": (streetview_nyc, "streetview_nyc", "new_york"),
    "king_county": (king_county, "king_county", "king_county"),
    "camvid": (camvid, "camvid", "cambridge"),
}
BLOCK_TILES = 16  # in Beijing, about 12.6 km
SMALL_SYSTEMS = ("tile2vec", "simclr-adjacency")
SHUFFLED, SENTENCES = "captions-shuffled", "captions-minilm"
BY_RIDGE = Reference("coordinates", "none", "ridge")
TITLES = {"r2": "R2", "rmse": "RMSE", "mae": "MAE", "spearman": "Spearman"}

Lines = list[dict[str, str]]
Cells = Mapping[tuple[str, ...], Mapping[str, str]]


def main(argv: Sequence[str] | None = None) -> None:
    """Compute missing results and write the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the collections")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder of the tables")
    parser.add_argument("--only", choices=PLACES, nargs="+", default=list(PLACES))
    parser.add_argument("--model", help="folder of an UrbanLN to include")
    parser.add_argument("--clip", help="folder of CLIP weights to include, frozen")
    parser.add_argument(
        "--seeds",
        type=int,
        help="number of splits (default: 5, or 10 with fewer than 1,000 regions)",
    )
    options = parser.parse_args(argv)
    lines: Lines = []
    for place in options.only:
        importer, folder, city = PLACES[place]
        dataset = options.output_dir / importer.__name__.rpartition(".")[2]
        print(import_dataset(importer.read, options.data / folder, dataset))
        tables = captions_of if place == "beijing" else pictures_of
        paths = tables(str(dataset), city, options.output_dir / "embeddings", options)
        lines += made_of(str(dataset), place, paths, options.output_dir, options.seeds)
    path = options.output_dir / "tables.csv"
    pd.DataFrame(lines).to_csv(path, index=False)
    print(f"Tables: {path}")


def made_of(
    dataset: str, place: str, paths: Sequence[Path], output: Path, seeds: int | None
) -> Lines:
    """Probe embedding tables and return the rows of the results."""
    city = open_city(dataset, PLACES[place][2])
    tables = [read_embeddings(path) for path in paths]
    results = output / "results" / place
    if place != "beijing":
        # CamVid's frames have no coordinates
        protocols = ("random",) if place == "camvid" else ("random", "block")
        probe(city, tables, results, ProbeSettings(protocols=protocols, seeds=seeds))
        return section(place, results)
    probe(in_blocks(city, BLOCK_TILES), tables, results, ProbeSettings(seeds=seeds))
    quarters = in_quarters(city)
    away = output / "results" / "beijing-quarters"
    probe(quarters, tables, away, ProbeSettings(protocols=("block",), seeds=seeds))
    return [
        *section(place, results),
        *section("beijing, quarters of the map held out", away),
        *misplaced(in_blocks(city, BLOCK_TILES), paths[0], output, seeds),
    ]


def captions_of(dataset: str, city: str, output: Path, options: argparse.Namespace) -> list[Path]:
    """Embed captions by TF-IDF, shuffled TF-IDF, a sentence encoder, and the model's text tower."""
    captions, folder = read_captions(dataset, city), output / city
    paths = [embed_tfidf(captions, folder), embed_tfidf(shuffled(captions), folder, SHUFFLED)]
    sentences = SentenceTower(sentence_encoder(DEFAULT_ENCODER))
    paths.append(embed_text_tower(captions, sentences, folder, SENTENCES))
    if options.model:
        paths.append(embed_text_tower(captions, load_text_tower(options.model), folder))
        drawn = load_text_tower(options.model, random_init=True)
        paths.append(embed_text_tower(captions, drawn, folder, "captions-tower-random"))
    return paths


def pictures_of(dataset: str, city: str, output: Path, options: argparse.Namespace) -> list[Path]:
    """Embed images by colour and texture, small trained baselines, UrbanLN, and frozen CLIP."""
    source, folder = open_images(dataset, city), output / city
    paths = [embed(ColourTextureEncoder(), source, folder, "colour_texture")]
    for system in SMALL_SYSTEMS if city != "cambridge" else ():  # they need coordinates
        # published for satellite tiles; New York has street views only
        other = {"view": "street_view"} if city == "new_york" else None
        paths.append(run_baseline(system, "cpu", dataset, city, output, overrides=other))
    if options.model:
        paths.append(embed(load_model_encoder(options.model), source, folder, "urbanln"))
        drawn = load_model_encoder(options.model, random_init=True)
        paths.append(embed(drawn, source, folder, "random-init"))
    if options.clip:
        paths.append(embed(load_model_encoder(options.clip), source, folder, "clip"))
    return paths


class SentenceTower(TextTower):
    """Sentence encoder with the interface of a text tower.

    Args:
        encoder: Encoder of sentence-transformers.
    """

    def __init__(self, encoder: SentenceEncoder):
        self._encoder, self.random_init = encoder, False
        self.name, self.fingerprint = DEFAULT_ENCODER, encoder.revision
        self.max_length = int(encoder.model.max_seq_length)

    def encode(self, texts: Sequence[str], batch_size: int = 64) -> NDArray[np.float32]:
        """Unit vectors `(N, D)`; the encoder chooses its own batch size."""
        return self._encoder(list(texts))

    def count_truncated(self, texts: Sequence[str]) -> int:
        """Number of texts that exceed the maximum length."""
        tokens = self._encoder.model.tokenizer(list(texts), verbose=False)["input_ids"]
        return sum(len(one) > self.max_length for one in tokens)


def shuffled(captions: RegionCaptions, seed: int = 0) -> RegionCaptions:
    """Assign each caption to a random other region, as a control."""
    rng = np.random.default_rng(seed)
    views = {
        view: replace(own, region=rng.permutation(own.region))
        for view, own in captions.views.items()
    }
    name = f"{captions.fingerprint}, shuffled by seed {seed}"
    return replace(captions, views=views, fingerprint=name)


def in_blocks(city: City, tiles: float) -> City:
    """Replace the stored split blocks of a city by larger ones of `tiles` tiles per side."""
    cell_m = geography(city.regions).cell_m
    regions = city.regions.drop(columns="split_block")
    return replace(city, regions=regions, block_m=tiles * cell_m)


def in_quarters(city: City) -> City:
    """Replace the split blocks of a city by blocks of half its extent.

    A substitute for transfer between cities, as only one city here has labels and captions.
    """
    place = geography(city.regions)
    half = (np.ptp(place.xy, axis=0).max() + place.buffer_m) / 2
    return in_blocks(city, half / place.cell_m)


def misplaced(city: City, tfidf: Path, output_dir: Path, seeds: int | None) -> Lines:
    """Compare captions of the labelled tile with those of the tile where its label was sampled.

    The published labels were sampled at the tile's south-west corner in BD-09, interpreted as
    WGS-84, and so lie in the tile to the east or north-east. The difference is the effect of this
    misplacement on the scores of captions.
    """
    own, regions = read_embeddings(tfidf), city.regions
    lon, lat = tile_corner(regions["tile_x"], regions["tile_y"], regions["tile_z"], "baidu")
    points = gpd.GeoDataFrame(geometry=gpd.points_from_xy(lon, lat), crs="EPSG:4326")
    joined = points.sjoin(regions[["geometry"]], predicate="within", how="left")
    read_in = joined["index_right"].groupby(level=0).first()
    vectors = np.full_like(own.vectors["satellite"], np.nan)
    known = read_in.notna().to_numpy()
    vectors[known] = own.vectors["satellite"][read_in[known].astype(int)]
    path = output_dir / "embeddings" / "misplaced" / "captions-where-read.parquet"
    metadata = {**own.metadata, "label": path.stem}
    counts = {"satellite": known.astype(np.int64)}
    write_embeddings(path, own.region_ids, counts, {"satellite": vectors}, metadata)
    results = output_dir / "results" / "misplaced"
    settings = ProbeSettings(seeds=seeds, probes=("ridge",))
    probe(city, [own, read_embeddings(path)], results, settings)
    return section("beijing, captions of the tile where a label was read", results)


def section(title: str, results: Path) -> Lines:
    """Rows of a results folder: scores, differences, gains and coverage."""
    latest = json.loads((results / "probe.json").read_text(encoding="utf-8"))["table_hash"]
    rows = [row for row in read_rows(results / "results.jsonl") if row.table_hash == latest]
    systems = {row.system for row in rows}
    lines: Lines = []
    coverage = measure_coverage(results)
    for protocol in dict.fromkeys(row.protocol for row in rows):
        for metric in TITLES:
            lines += scores(rows, protocol, metric)
        if "coordinates" in systems:
            lines += differences(results, COORDINATES, protocol)
            lines += differences(results, BY_RIDGE, protocol, gains=True)
        if "clip" in systems:
            lines += differences(results, Reference("clip"), protocol)
        lines += covered(coverage, protocol)
    return [{"section": title, **line} for line in lines]


def scores(rows: Sequence[ResultRow], protocol: str, metric: str) -> Lines:
    """Rows of a metric: mean and SD over splits per system and indicator."""
    rows = [row for row in rows if row.protocol == protocol and not row.beside]
    seeds = sorted({row.split_seed for row in rows})
    found: dict[tuple[str, ...], dict[str, list[float]]] = {}
    for row in rows:
        values = found.setdefault((row.system, row.probe), {})
        values.setdefault(row.indicator, []).append(getattr(row, metric))
    cells = {
        key: {name: _mean(values) for name, values in own.items()} for key, own in found.items()
    }
    for title, field in (("n of the test set", "n_test"), ("its labels' SD", "label_sd_test")):
        of: dict[str, list[float]] = {}
        for row in rows:
            of.setdefault(row.indicator, []).append(getattr(row, field))
        cells[title, ""] = {name: _span(values) for name, values in of.items()}
    title = f"{TITLES[metric]}, {protocol}, splits {seeds[0]} to {seeds[-1]}"
    return _table(title, ("system", "probe"), cells)


def differences(results: Path, reference: Reference, protocol: str, gains: bool = False) -> Lines:
    """Rows of differences of R2 to a reference, with 95 % intervals over blocks.

    Args:
        results: Folder of the results.
        reference: System that is subtracted.
        protocol: Split protocol.
        gains: Whether to list embeddings combined with coordinates, or all other systems.
    """
    cells: dict[tuple[str, ...], dict[str, str]] = {}
    for one in compare(results, reference):
        beside = "coordinates" if gains else ""
        if one.protocol == protocol and split_name(one.system)[0] == beside:
            i = one.intervals["r2"]
            text = f"{i.estimate:+.2f} [{i.low:+.2f}, {i.high:+.2f}]" + " *" * i.excludes_zero
            cells.setdefault((one.system, one.probe), {})[one.indicator] = text
    what = "R2 of coordinates and vector" if gains else "R2"
    how = f"{reference.system} ({reference.probe})" if reference.probe else reference.system
    title = f"{what} less that of {how}, {protocol}, 95 % interval"
    return _table(title, ("system", "probe"), cells)


def covered(coverage: Iterable[Coverage], protocol: str) -> Lines:
    """Rows of the coverage and half-width of 90 % prediction intervals."""
    cells: dict[tuple[str, ...], dict[str, str]] = {}
    for one in coverage:
        alone = one.probe != "mlp" and not split_name(one.system)[0]
        if one.protocol == protocol and alone:
            over = {"split": "regions", "block": "blocks"}[one.method]
            text = f"{100 * one.coverage:.0f} %, ±{one.half_width:.2f}"
            cells.setdefault((one.system, one.probe, over), {})[one.indicator] = text
    title = f"Coverage of 90 % intervals on test regions, half-width, {protocol}"
    return _table(title, ("system", "probe", "quantile over"), cells)


def _table(title: str, heads: Sequence[str], cells: Cells) -> Lines:
    """One row per cell; a dash where a system has no value of an indicator."""
    names = list(dict.fromkeys(name for row in cells.values() for name in row))
    return [
        {
            "table": title, **dict(zip(heads, key, strict=True)),
            "indicator": name, "value": row.get(name, "–"),
        }
        for key, row in cells.items()
        for name in names
    ]  # fmt: skip


def _mean(values: Sequence[float]) -> str:
    if not np.isfinite(values).any():
        return "–"
    return f"{np.nanmean(values):.2f} ± {np.nanstd(values, ddof=1):.2f}"


def _span(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    form = "{:d}" if isinstance(low, int) else "{:.2f}"
    return form.format(low) if low == high else f"{form.format(low)} to {form.format(high)}"


__all__ = ["main"]

if __name__ == "__main__":
    main()
