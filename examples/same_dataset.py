"""Compare two built datasets: regions, splits, indicators (to 1e-6) and images.

python -m examples.same_dataset runs/before/dataset runs/after/dataset
"""

import hashlib
import sys
from pathlib import Path

import pandas as pd

from dataset_builders.storage import list_tables, read_rejects, read_table

TOLERANCE = 1e-6


def differences(one: Path, other: Path) -> list[str]:
    """List the differences of two datasets, one line per table."""
    found = []
    if list_tables(one) != list_tables(other):
        return [f"tables: {list_tables(one)} and {list_tables(other)}"]
    pairs = [(f"{c}-{t}", _table(one, c, t), _table(other, c, t)) for c, t in list_tables(one)]
    for name, left, right in [*pairs, ("rejects", read_rejects(one), read_rejects(other))]:
        try:
            pd.testing.assert_frame_equal(left, right, check_exact=False, rtol=TOLERANCE)
            print(f"{name}: {len(left):,} rows, {len(left.columns)} columns are the same")
        except AssertionError as error:
            found.append(f"{name}: {error}")
    return found


def _table(dataset: Path, city: str, table: str) -> pd.DataFrame:
    frame = read_table(dataset, city, table)
    shards = sorted((dataset / "data" / f"{city}-{table}").glob("*.parquet"))
    for column in {"image", "geometry"} & set(pd.read_parquet(shards[0]).columns):
        values = pd.concat(pd.read_parquet(shard, columns=[column]) for shard in shards)[column]
        contents = (one["bytes"] if isinstance(one, dict) else one for one in values)
        frame[column] = [hashlib.sha256(content).hexdigest() for content in contents]
    return frame.drop(columns="fetched_at", errors="ignore")


if __name__ == "__main__":
    lines = differences(Path(sys.argv[1]), Path(sys.argv[2]))
    print("\n".join(lines) or "The datasets are the same.")
    sys.exit(bool(lines))
