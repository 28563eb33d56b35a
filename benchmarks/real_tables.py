"""Tables on real labels: what captions, pictures and coordinates are worth to each other.

    python -m benchmarks.real_tables --data DATA --output_dir runs/real_tables
    python -m benchmarks.real_tables --data DATA --output_dir runs/real_tables --only beijing
    python -m benchmarks.real_tables ... --model runs/real/model        its two towers too

`DATA` holds `urbanclip_toolkit/`, `streetview_nyc/` and `king_county/`; `python -m
dataset_builders.importers NAME --help` says what is expected of each. Writes `tables.md`, and the
rows it is made of. Killed, it goes on with the same command. `docs/real_tables.md` has what came
out, and how to read it.
"""

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import geopandas as gpd
import numpy as np

from dataset_builders.coordinates import tile_corner
from dataset_builders.importers import importer
from pipelines.evaluation.baselines.run import run_baseline
from pipelines.evaluation.captions_only import embed_text_tower, embed_tfidf
from pipelines.evaluation.cities import City
from pipelines.evaluation.embed import embed
from pipelines.evaluation.embedding_tables import read_embeddings, write_embeddings
from pipelines.evaluation.encoders import ColourTextureEncoder, load_model_encoder
from pipelines.evaluation.probe import ProbeSettings, probe
from pipelines.evaluation.region_captions import RegionCaptions, read_captions
from pipelines.evaluation.results import ResultRow, read_rows
from pipelines.evaluation.sources import open_city, open_images
from pipelines.evaluation.splits import geography
from pipelines.evaluation.statistics import COORDINATES, Difference, compare
from pipelines.evaluation.text_tower import load_text_tower

PLACES = {"beijing": "urbanclip", "new_york": "streetview_nyc", "king_county": "king_county"}
FOLDERS = {"urbanclip": "urbanclip_toolkit"}
BLOCK_TILES = 16  # Beijing's: about 12.6 km
SMALL_SYSTEMS = ("clip-random", "resnet18", "tile2vec", "simclr-adjacency")
SHUFFLED = "captions-shuffled"
SEEDS = 10
TITLES = {"r2": "R2", "spearman": "Spearman"}


def main(argv: Sequence[str] | None = None) -> None:
    """Compute what is missing and write the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the real data")
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--only", choices=PLACES, nargs="+", default=list(PLACES))
    parser.add_argument("--model", help="checkpoint whose towers are probed beside the rest")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="splits (default %(default)s)")
    options = parser.parse_args(argv)
    sections = []
    for city in options.only:
        source = options.data / FOLDERS.get(PLACES[city], PLACES[city])
        dataset = options.output_dir / PLACES[city]
        print(importer(PLACES[city]).import_dataset(source=source, output_dir=dataset))
        make = caption_tables if city == "beijing" else picture_tables
        paths = make(str(dataset), city, options.output_dir / "embeddings", options.model)
        results = options.output_dir / "results" / city
        whole = open_city(str(dataset), city)
        whole = in_blocks_of_tiles(whole) if city == "beijing" else whole
        tables = [read_embeddings(path) for path in paths]
        probe(whole, tables, results, ProbeSettings(seeds=options.seeds))
        sections.append(section(city, results))
        if city == "beijing":
            sections.append(misplaced(whole, paths[0], options.output_dir, options.seeds))
    path = options.output_dir / "tables.md"
    path.write_text("\n\n".join(sections) + "\n", encoding="utf-8")
    print(f"Tables: {path}")


def caption_tables(dataset: str, city: str, output: Path, model: str | None) -> list[Path]:
    """Captions as words, as words of another tile, and through the text tower of a checkpoint."""
    captions, folder = read_captions(dataset, city), output / city
    paths = [embed_tfidf(captions, folder), embed_tfidf(shuffled(captions), folder, SHUFFLED)]
    if model:
        paths.append(embed_text_tower(captions, load_text_tower(model), folder))
        drawn = load_text_tower(model, random_init=True)
        paths.append(embed_text_tower(captions, drawn, folder, "captions-tower-random"))
    return paths


def picture_tables(dataset: str, city: str, output: Path, model: str | None) -> list[Path]:
    """Colour and texture, small encoders that need no weights, and the checkpoint's image tower."""
    source, folder = open_images(dataset, city), output / city
    paths = [embed(ColourTextureEncoder(), source, folder, "colour_texture")]
    paths += [run_baseline(system, "cpu", dataset, city, output) for system in SMALL_SYSTEMS]
    if model:
        paths.append(embed(load_model_encoder(model), source, folder, "urbanln"))
    return paths


def shuffled(captions: RegionCaptions, seed: int = 0) -> RegionCaptions:
    """A control: every caption stays a real one, and goes to another region."""
    rng = np.random.default_rng(seed)
    views = {
        view: replace(own, region=rng.permutation(own.region))
        for view, own in captions.views.items()
    }
    return replace(
        captions, views=views, fingerprint=f"{captions.fingerprint}, shuffled by seed {seed}"
    )


def in_blocks_of_tiles(city: City) -> City:
    """The city with blocks of 16 tiles a side, instead of the stored, narrower ones."""
    cell_m = geography(city.regions).cell_m
    regions = city.regions.drop(columns="split_block")
    return replace(city, regions=regions, block_m=BLOCK_TILES * cell_m)


def misplaced(city: City, tfidf: Path, output_dir: Path, seeds: int) -> str:
    """Captions of the tile in which each label was read, beside those of the tile it is given to.

    The labels were read at the tile's south-west corner in BD-09 taken for WGS-84: in the tile east
    of it, or north-east. How much of a label do captions miss by that alone?
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


def section(city: str, results: Path) -> str:
    """The tables of a city in Markdown: scores, then differences to coordinates."""
    latest = _latest_table(results)
    rows = [row for row in read_rows(results / "results.jsonl") if row.table_hash == latest]
    differences = compare(results, COORDINATES)
    parts = [f"## {city}"]
    for protocol in ("random", "block"):
        parts.append(scores(rows, protocol, "r2"))
        parts.append(scores(rows, protocol, "spearman"))
        parts.append(gains(differences, protocol))
    return "\n\n".join(parts)


def _latest_table(results: Path) -> str:
    """Of the latest run's table."""
    return str(json.loads((results / "probe.json").read_text(encoding="utf-8"))["table_hash"])


def scores(rows: Sequence[ResultRow], protocol: str, metric: str) -> str:
    """A metric, mean and SD over splits, of all systems."""
    rows = [row for row in rows if row.protocol == protocol]
    indicators = list(dict.fromkeys(row.indicator for row in rows))
    seeds = sorted({row.split_seed for row in rows})
    lines = [f"{TITLES[metric]}, {protocol}, splits {seeds[0]} to {seeds[-1]}:", ""]
    lines += _head(["system", "probe", *indicators])

    def cell(name: str, probe_name: str, indicator: str) -> str:
        own = [
            getattr(row, metric)
            for row in rows
            if (row.system, row.probe, row.indicator) == (name, probe_name, indicator)
        ]
        known = np.isfinite(own).any()
        return f"{np.nanmean(own):.2f} ± {np.nanstd(own):.2f}" if known else "–"

    for name, probe_name in dict.fromkeys((row.system, row.probe) for row in rows):
        cells = [cell(name, probe_name, indicator) for indicator in indicators]
        lines.append(_line([name, probe_name, *cells]))
    for title, value in (
        ("n of the test set", lambda row: row.n_test),
        ("its labels' SD", lambda row: row.label_sd_test),
    ):
        lines.append(_line([title, "", *(_span(rows, one, value) for one in indicators)]))
    return "\n".join(lines)


def gains(differences: Iterable[Difference], protocol: str) -> str:
    """R2 minus that of coordinates-only nearest neighbours, with 95 % intervals over blocks."""
    own = [one for one in differences if one.protocol == protocol]
    indicators = list(dict.fromkeys(one.indicator for one in own))
    lines = [f"R2 minus that of coordinates (knn), {protocol}, 95 % interval:", ""]
    lines += _head(["system", "probe", *indicators])
    for name, probe_name in dict.fromkeys((one.system, one.probe) for one in own):
        found = {
            one.indicator: one.intervals["r2"]
            for one in own
            if (one.system, one.probe) == (name, probe_name)
        }
        cells = [
            f"{i.estimate:+.2f} [{i.low:+.2f}, {i.high:+.2f}]" + " *" * i.excludes_zero
            for i in (found[indicator] for indicator in indicators)
        ]
        lines.append(_line([name, probe_name, *cells]))
    return "\n".join(lines)


def _span(rows: Sequence[ResultRow], indicator: str, value: Callable[[ResultRow], float]) -> str:
    values = [value(row) for row in rows if row.indicator == indicator]
    low, high = min(values), max(values)
    form = "{:d}" if isinstance(low, int) else "{:.2f}"
    return form.format(low) if low == high else f"{form.format(low)} to {form.format(high)}"


def _head(names: Sequence[str]) -> list[str]:
    return [_line(names), _line(["---"] * len(names))]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


__all__ = ["main"]

if __name__ == "__main__":
    main()
