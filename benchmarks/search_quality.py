"""Precision of text search over regions, judged by the ground truth of a synthetic city.

    python -m benchmarks.search_quality --model_name_or_path runs/quickstart/model \
        --embeddings runs/quickstart/embeddings/harborview/urbanln.parquet \
        --dataset_name runs/quickstart/dataset

Reports for each example query of the demo how many of its top 12 results are relevant, and the
share of relevant regions. A satellite tile is relevant if the land use covers about a third of the
ground or more, a street view if it lines one side of the street.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from demo.search_tab import EXAMPLES
from pipelines.evaluation.embed.tables import read_embeddings
from pipelines.evaluation.embed.text_tower import load_text_tower
from pipelines.evaluation.search.nearest import unit

TOP = 12
VIEWS = ("satellite", "street_view")
SIDES = ("left side", "right side")
LARGE = {"about a third of", "about half of", "most of", "nearly all of"}
SHOWN_BY = {  # example query of the demo: its name in the facts of tiles and of street views
    "a dense district of tall towers": ("dense towers with long shadows", "a dense wall of towers"),
    "houses with gardens": ("detached houses with gardens", "detached houses with gardens"),
    "factory sheds": ("large factory sheds and storage tanks", "factory sheds behind fences"),
    "open fields": ("open fields", "open fields"),
}


def regions_that_show(dataset: Path, city: str, query: str) -> dict[str, set[str]]:
    """Map each view to the regions relevant to a query, according to `truth/`."""
    from_above, from_street = SHOWN_BY[query]
    found: dict[str, set[str]] = {"satellite": set(), "street_view": set()}
    for shard in sorted((dataset / "truth" / city).glob("*.parquet")):
        for row in pq.read_table(shard, columns=["image_id", "statements"]).to_pylist():
            region, view = row["image_id"].rsplit("_", 1)
            facts = {(one["key"], one["value"]) for one in row["statements"]}
            if view == "sat" and any(key == from_above and value in LARGE for key, value in facts):
                found["satellite"].add(region)
            if view != "sat" and facts & {(side, from_street) for side in SIDES}:
                found["street_view"].add(region)
    return found


def judge(dataset: Path, model: str, embeddings: Path) -> pd.DataFrame:
    """One row per query and view: relevant top-[`TOP`] results and share of relevant regions."""
    table, tower = read_embeddings(embeddings), load_text_tower(model)
    rows: list[dict[str, Any]] = []
    for query in EXAMPLES:
        relevant = regions_that_show(dataset, table.metadata["city"], query)
        vector = unit(tower.encode([query]))[0]
        for view in VIEWS:
            known = np.flatnonzero(table.has(view))
            cosines = unit(table.matrix(view)[known]) @ vector
            best = known[np.argsort(-cosines, kind="stable")[:TOP]]
            hits = sum(table.region_ids[place] in relevant[view] for place in best.tolist())
            share = len(relevant[view]) / len(known)
            rows.append(
                {
                    "query": query, "view": view, "hits": hits, "of": TOP, "all regions": share,
                    "times": hits / TOP / share if share else np.nan,
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model_name_or_path", required=True)
    parser.add_argument("--embeddings", type=Path, required=True, help="embedding table")
    parser.add_argument(
        "--dataset_name", type=Path, required=True, help="synthetic dataset with truth/"
    )
    args = parser.parse_args(argv)
    found = judge(args.dataset_name, args.model_name_or_path, args.embeddings)
    print("Synthetic.")
    print(found.to_string(index=False, float_format="{:.2f}".format))
    means = found.groupby("view")[["hits", "all regions", "times"]].mean()
    print(means.to_string(float_format="{:.2f}".format))


if __name__ == "__main__":
    main()
