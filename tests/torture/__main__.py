"""python -m tests.torture: fault injection into the project's commands.

Each fault hits a real command on a tiny input at a random step. The command is then rerun, and its
outputs are compared with those of an undisturbed run. Rerun this program to resume. The exit code
is 1 if any outcome is lost, silently wrong, stuck, unclear or a traceback; the folders of such
faults are kept in OUTPUT_DIR/work/bad.
"""

import argparse
import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

THIRD_PARTY = ("accelerate", "datasets", "pydantic", "safetensors.torch", "transformers", "yaml")


def main() -> int:
    for name, value in (("HF_HUB_OFFLINE", "1"), ("OMP_NUM_THREADS", "1")):
        os.environ.setdefault(name, value)
    os.environ.update(TOKENIZERS_PARALLELISM="false", HF_HUB_DISABLE_TELEMETRY="1")
    from tests.processes import preload

    from .faults import BAD, Torture, plan
    from .subjects import KEY, MAKERS, Provider, subjects

    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("--output_dir", type=Path, default=Path("runs/torture"))
    parser.add_argument("--faults", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num_workers", type=int, default=2, help="faults at the same time")
    args = parser.parse_args()
    preload(*THIRD_PARTY)
    output = args.output_dir.resolve()
    work = output / "work"
    work.mkdir(parents=True, exist_ok=True)
    results, start = output / "faults.jsonl", time.monotonic()
    with Provider(KEY) as provider:
        made = subjects(work / "inputs", list(MAKERS), provider.url)
        torture = Torture(made, work, provider)
        for name, seconds in torture.prepare().items():
            print(f"{name}: {torture.steps[name]} steps, {seconds:.1f} s", flush=True)
        done = _read(results, args.seed)
        faults = plan(args.faults, list(MAKERS), args.seed)
        left = [one for one in faults if one.number not in done]
        with ThreadPoolExecutor(args.num_workers) as pool, results.open("a") as file:
            for outcome in pool.map(torture.suffer, left):
                row = {"seed": args.seed, **outcome}
                done[row["number"]] = row
                file.write(json.dumps(row) + "\n")
                file.flush()
                where = f"{row['number']:4} {row['subject']:9} {row['kind']:9}"
                note = row["note"][-1500 if row["outcome"] in BAD else -120 :]
                print(f"{where} {row['outcome']:14} {note}", flush=True)
    rows = [done[one.number] for one in faults if one.number in done]
    said = _table(rows, [*MAKERS], output) if rows else ""
    print(f"{said}\n{len(rows)} faults, {(time.monotonic() - start) / 60:.1f} minutes.")
    return int(any(row["outcome"] in BAD for row in rows))


def _read(path: Path, seed: int) -> dict[int, dict]:
    """Latest outcome of each fault of this seed, by number."""
    lines = path.read_text().splitlines() if path.exists() else []
    rows = [json.loads(line) for line in lines if line.endswith("}")]
    return {row["number"]: row for row in rows if row["seed"] == seed}


def _table(rows: list[dict], names: list[str], output: Path) -> str:
    import pandas as pd

    from .faults import BAD, GOOD, KINDS

    frame = pd.DataFrame(rows)
    frame.to_csv(output / "faults.csv", index=False)
    tables = []
    for by, order in (("subject", names), ("kind", KINDS)):
        counts = pd.crosstab(frame[by], frame["outcome"], margins=True, margins_name="all")
        rows_left = [one for one in (*order, "all") if one in counts.index]
        tables.append(counts.reindex(index=rows_left, columns=[*GOOD, *BAD, "all"], fill_value=0))
    return "\n\n".join(one.to_string() for one in tables)


if __name__ == "__main__":
    sys.exit(main())
