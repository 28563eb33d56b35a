"""Speed and memory of exact nearest-neighbour search and of retrieval metrics.

python -m benchmarks.retrieval                  # both
python -m benchmarks.retrieval search           # 1,000,000 x 512 float32, memory-mapped
python -m benchmarks.retrieval recall           # 10,000 pairs, in blocks vs. the full matrix

`--keys`, `--dim` and `--repeats` change the sizes. A million vectors temporarily take 2 GB of disk
and of page cache; the first search, which reads from disk, is reported separately.
"""

import argparse
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap

from pipelines.evaluation.search.nearest import Keys, plain_keys, top_k, unit
from pipelines.evaluation.search.retrieval import Pairs, retrieval_metrics

WRITTEN_AT_ONCE = 50_000
IMAGES_A_REGION = 8
TOP = 10


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("which", nargs="?", choices=("search", "recall"))
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--pairs", type=int, default=10_000)
    parser.add_argument("--folder", help="folder for the temporary vectors")
    options = parser.parse_args()
    if options.which != "recall":
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            search(Path(folder), options.keys, options.dim, options.repeats)
    if options.which != "search":
        recall(options.pairs, options.dim)


def search(folder: Path, num_keys: int, dim: int, repeats: int) -> None:
    """Time and working memory of finding the ten nearest images and regions."""
    query = unit(np.random.default_rng(1).normal(size=(1, dim)))
    for count in (num_keys // 10, num_keys):
        path = folder / f"{count}.npy"
        write_vectors(path, count, dim)
        vectors = np.load(path, mmap_mode="r")
        starts = np.append(np.arange(0, count, IMAGES_A_REGION), count)
        for name, keys in (("images", plain_keys(vectors)), ("regions", Keys(vectors, starts))):
            work = partial(top_k, query, keys, TOP)
            first = seconds(work)
            times = [seconds(work) for _ in range(repeats)]
            processor = min(seconds(work, time.process_time) for _ in range(repeats))
            peak = working_bytes(work)
            print(
                f"{count:,} x {dim}, {TOP} nearest {name}: {np.median(times):.3f} s (best "
                f"{min(times):.3f}, worst {max(times):.3f}, first {first:.3f}; "
                f"minimum CPU time {processor:.3f}); "
                f"working memory {peak / 1e6:.1f} MB"
            )
        path.unlink()


def write_vectors(path: Path, count: int, dim: int) -> None:
    rng = np.random.default_rng(0)
    vectors = open_memmap(path, mode="w+", dtype=np.float32, shape=(count, dim))
    for start in range(0, count, WRITTEN_AT_ONCE):
        part = vectors[start : start + WRITTEN_AT_ONCE]
        part[:] = unit(rng.standard_normal(part.shape, dtype=np.float32))
    vectors.flush()


def recall(num_pairs: int, dim: int) -> None:
    """Compare blockwise retrieval metrics with the full similarity matrix."""
    rng = np.random.default_rng(0)
    images = unit(rng.standard_normal((num_pairs, dim), dtype=np.float32))
    noise = rng.standard_normal((num_pairs, dim), dtype=np.float32)
    texts = unit(images + unit(noise) * 8)
    names = [f"text {i}" for i in range(num_pairs)]
    pairs = Pairs(names, np.arange(num_pairs))
    found: dict[str, dict[str, float]] = {}

    def in_blocks() -> None:
        found.update(retrieval_metrics(images, texts, pairs, names))

    def whole_matrix() -> None:
        for scores in (images @ texts.T, texts @ images.T):
            (scores >= np.diag(scores)[:, None]).sum(1)

    for name, work in (("blocks, three directions", in_blocks), ("matrix, two", whole_matrix)):
        took, peak = seconds(work), working_bytes(work)
        print(f"{num_pairs:,} pairs in {name}: {took:.1f} s, working memory {peak / 1e6:.0f} MB")
    print(f"recall@10 of text to image: {found['text_to_image']['recall_at_10']:.3f}")


def seconds(work: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    start = clock()
    work()
    return clock() - start


def working_bytes(work: Callable[[], object]) -> int:
    """Peak of the memory allocated by a call, excluding memory-mapped pages."""
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


if __name__ == "__main__":
    main()
