"""Predictive value of 1,448 street views of New York beyond location.

  python -m examples.new_york --data DATA --output_dir runs/new_york --model runs/real/model

Builds two datasets from the recipe `configs/cities/new_york_real.yaml`: one with square kilometres
as regions, one with the area around each photo (its Voronoi cell within 500 m). Embeds the photos
with all encoders that need no download, and probes each one by itself, combined with coordinates,
and combined with GeoCLIP's location encoder, on random splits and on held-out districts. Scores and
intervals are written to OUTPUT_DIR/new_york.csv; `--docs docs` updates the documentation. Rerun the
command to resume.

DATA holds the folders `streetview_nyc` (photos of StreetviewLLM) and `cityrep/labels` (rasters of
CityRep) as published.
"""

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
import yaml

from dataset_builders.files import atomic_path
from pipelines.common.errors import InputError
from pipelines.evaluation.analysis.added import added_table
from pipelines.evaluation.report.frame import slug

ROOT = Path(__file__).resolve().parents[1]
RECIPE = ROOT / "configs" / "cities" / "new_york_real.yaml"
KILOMETRES, PLACES = "new_york", "new_york_places"
AROUND_M, PLANE = 500.0, "EPSG:32618"
ENCODERS = ("efficientnet_lite0", "mosaiks", "colour_texture")
SCORES, REACH = "new_york.csv", "new_york_reach.csv"
IMAGES, LOCATION = "efficientnet_lite0", "coordinates"
TITLES = {KILOMETRES: "square kilometres", PLACES: "around each photo"}
TABLE = re.compile(r"(<!-- table: new_york -->\n).*?(<!-- end of table -->)", re.DOTALL)


def main(argv: list[str] | None = None) -> int:
    """Build both datasets, embed, probe, report."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.new_york",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the collections")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/new_york"))
    parser.add_argument(
        "--model", help="folder of an UrbanLN to include, also with random initialisation"
    )
    parser.add_argument("--seeds", type=int, default=10, help="number of splits per protocol")
    parser.add_argument("--docs", type=Path, help="folder of the documentation to update")
    arguments = parser.parse_args(argv)
    try:
        table = run(arguments.data, arguments.output_dir, arguments.model, arguments.seeds)
    except (InputError, subprocess.CalledProcessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(markdown(table))
    print(f"Scores: {arguments.output_dir / SCORES}")
    if arguments.docs is not None:
        folder = arguments.output_dir / "results" / "tables"
        reaches = {city: folder / f"{slug(city)}-reach.csv" for city in (KILOMETRES, PLACES)}
        write_docs(table, reaches, arguments.docs)
    return 0


def run(data: Path, output: Path, model: str | None, seeds: int) -> pd.DataFrame:
    """Build, embed, probe and report for both kinds of regions.

    Args:
        data: Folder of the collections.
        output: Output folder.
        model: Folder of an UrbanLN.
        seeds: Number of splits per protocol.

    Returns:
        The rows of [`added_table`] with an additional first column `city`, and the other
        location-only controls as systems.
    """
    photos = data / "streetview_nyc" / "labels.csv"
    if not photos.is_file():
        raise InputError(f"There is no {photos}: --data must be the folder of the collections.")
    output.mkdir(parents=True, exist_ok=True)
    recipe = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    write_places(photos, recipe["boundary"]["bbox"], output / "places.gpkg")
    of_places = {
        **recipe,
        "city": PLACES,
        "title": "UrbanLN New York, around each photo",
        "regions": {
            "scheme": "polygons",
            "file": str((output / "places.gpkg").resolve()),
            "id_column": "place",
        },
    }
    (output / f"{PLACES}.yaml").write_text(yaml.safe_dump(of_places), encoding="utf-8")
    tables = []
    for city, path in ((KILOMETRES, RECIPE), (PLACES, output / f"{PLACES}.yaml")):
        dataset = output / city
        _command("-m dataset_builders build", path, data_dir=data, output_dir=dataset)
        _probe(dataset / "dataset", city, output, model, seeds)
        results = output / "results" / city
        tables += [one.assign(city=city) for one in (added_table(results), _by_place(results))]
    _command("evaluate.py report", output_dir=output / "results")
    table = pd.concat(tables, ignore_index=True)
    table = table[["city", *table.columns.drop("city")]]
    with atomic_path(output / SCORES) as temporary:
        table.round(4).to_csv(temporary, index=False)
    return table


def write_places(photos: Path, bbox: list[float], output: Path) -> None:
    """Write the area around each photo, its Voronoi cell within 500 m, as a GeoPackage.

    Args:
        photos: CSV with `lon`, `lat` and `image`.
        bbox: West, south, east, north in degrees; photos outside are left out.
        output: GeoPackage with the column `place`, EPSG:4326.
    """
    table = pd.read_csv(photos)
    west, south, east, north = bbox
    table = table[table["lon"].between(west, east) & table["lat"].between(south, north)]
    points = gpd.GeoSeries(gpd.points_from_xy(table["lon"], table["lat"]), crs=4326).to_crs(PLANE)
    around = shapely.buffer(points.to_numpy(), AROUND_M)
    cells = shapely.get_parts(
        shapely.voronoi_polygons(
            shapely.MultiPoint(list(points)), extend_to=shapely.union_all(around)
        )
    )
    photo, cell = shapely.STRtree(cells).query(points.to_numpy(), predicate="within")
    own = np.empty(len(points), dtype=object)
    own[photo] = cells[cell]
    places = gpd.GeoDataFrame(
        {"place": table["image"].map(lambda name: Path(name).stem)},
        geometry=gpd.GeoSeries(shapely.intersection(own, around), crs=PLANE).to_crs(4326).values,
    )
    with atomic_path(output) as temporary:
        places.to_file(temporary, layer="places", driver="GPKG")


def markdown(table: pd.DataFrame) -> str:
    """Markdown table for held-out districts: R2 of location and of photos, and the gain by photos.

    "Coordinates" is the best of k-NN, trees and ridge on the coordinates, for each indicator.
    """
    table = table[table["protocol"] == "block"]
    lines = [
        "| regions | indicator | coordinates | GeoCLIP | photos | photos added to "
        "coordinates | photos added to GeoCLIP |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for (city, indicator), own in table.groupby(["city", "indicator"], sort=False):
        alone = own[own["beside"] == ""].set_index("system")["r2"]
        if indicator == "mean":
            continue
        location = alone[alone.index.str.startswith(LOCATION)].max()
        photos = {row.beside: row for row in own[own["system"] == IMAGES].itertuples()}
        cells = [f"{value:.2f}" for value in (location, alone["geoclip"], alone[IMAGES])]
        cells += [_interval(photos[beside]) for beside in (LOCATION, "geoclip")]
        name = str(indicator).replace("_", " ")
        lines.append(f"| {TITLES[str(city)]} | {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def write_docs(table: pd.DataFrame, reaches: Mapping[str, Path], docs: Path) -> None:
    """Update `results/new_york*.csv` and the table in `results.md`."""
    page = docs / "results.md"
    text, found = TABLE.subn(rf"\g<1>{markdown(table)}\g<2>", page.read_text(encoding="utf-8"))
    if not found:
        raise InputError(f"{page} lacks the comment `table: new_york`, which marks the table.")
    page.write_text(text, encoding="utf-8")
    table.round(4).to_csv(docs / "results" / SCORES, index=False)
    reach = {city: pd.read_csv(path) for city, path in reaches.items()}
    pd.concat(reach, names=["city"]).reset_index(level=0).round(4).to_csv(
        docs / "results" / REACH, index=False
    )


def _interval(row: Any) -> str:
    text = f"{row.added:+.2f} [{row.low:+.2f}, {row.high:+.2f}]"
    return f"**{text}**" if row.low > 0 else text


def _by_place(folder: Path) -> pd.DataFrame:
    """Mean R2 of k-NN and trees on the coordinates, in the columns of [`added_table`]."""
    lines = (folder / "results.jsonl").read_text(encoding="utf-8").splitlines()
    rows = pd.DataFrame([json.loads(line) for line in lines])
    rows = rows[(rows["system"] == LOCATION) & rows["probe"].isin(("knn", "gbm"))]
    rows = rows.assign(system=LOCATION + " (" + rows["probe"] + ")", beside="")
    keys = ["protocol", "system", "view", "beside", "indicator"]
    found = rows.groupby(keys, sort=False)["r2"].agg(r2="mean", splits="count")
    return found.reset_index()


def _probe(dataset: Path, city: str, output: Path, model: str | None, seeds: int) -> None:
    embeddings = output / "embeddings"
    known = {"dataset_name": dataset, "city": city}
    for encoder in (*ENCODERS, "geoclip"):
        _command("evaluate.py embed", encoder=encoder, output_dir=embeddings, **known)
    if model is not None:
        own = {"model_name_or_path": model, "output_dir": embeddings, **known}
        _command("evaluate.py embed", label="urbanln", **own)
        _command("evaluate.py embed --random_init", label="random-init", **own)
    _command(
        f"evaluate.py probe --probes ridge --beside geoclip --seeds {seeds} --embeddings",
        *sorted((embeddings / city).glob("*.parquet")),
        output_dir=output / "results",
        **known,
    )


def _command(name: str, *arguments: Path, **options: object) -> None:
    words = [*name.split(), *map(str, arguments)]
    for option, value in options.items():
        words += [f"--{option}", str(value)]
    subprocess.run([sys.executable, *words], check=True, cwd=ROOT)


if __name__ == "__main__":
    sys.exit(main())
