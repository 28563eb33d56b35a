"""Server utilisation of the captioning client, and memory of captioning runs.

python -m benchmarks.captioning            # both
python -m benchmarks.captioning busy       # share of the allowed concurrency in use
python -m benchmarks.captioning memory     # peak memory of runs on 20 and on 160 images
"""

import asyncio
import base64
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import yaml

from benchmarks.measure import in_subprocess, peak_mb
from dataset_builders.synthetic import build_dataset
from pipelines.captioning.clients import open_model
from pipelines.captioning.recipe import read_recipe
from pipelines.captioning.records import Request, Sampling
from pipelines.captioning.run import run

ANSWER = json.dumps(
    {
        "choices": [{"message": {"content": "A street."}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 300, "completion_tokens": 3},
    }
).encode()
IMAGE_BYTES = 150_000  # a street view of 768 x 768
MODELS = ("amber", "cedar")


class Latency:
    """Server with a fixed latency that records the total duration of its requests.

    The duration is from the first line of the request's head until the response is written.
    """

    def __init__(self, latency_s: float):
        self.latency_s = latency_s
        self.in_hand_s, self.requests = 0.0, 0
        self.first, self.last = float("inf"), 0.0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        while head := await reader.readline():
            started = time.monotonic()
            length = 0
            while (line := await reader.readline()).strip():
                name, _, value = line.partition(b":")
                if name.lower() == b"content-length":
                    length = int(value)
            await reader.readexactly(length)
            if head.startswith(b"POST"):
                await asyncio.sleep(self.latency_s)
            writer.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                b"Content-Length: %d\r\n\r\n%s" % (len(ANSWER), ANSWER)
            )
            await writer.drain()
            ended = time.monotonic()
            self.in_hand_s += ended - started
            self.requests += 1
            self.first, self.last = min(self.first, started), max(self.last, ended)


def server_process(latency_s: float, pipe: Connection) -> None:
    """Serve until a message arrives through the pipe, then send the recorded numbers."""

    async def main() -> None:
        latency = Latency(latency_s)
        server = await asyncio.start_server(latency.serve, "127.0.0.1", 0, limit=2**20)
        pipe.send(server.sockets[0].getsockname()[1])
        await asyncio.to_thread(pipe.recv)
        pipe.send((latency.in_hand_s, latency.requests, latency.last - latency.first))

    asyncio.run(main())


async def ask_many(url: str, count: int, concurrency: int) -> None:
    """Send requests as the captioning run does, with more images in flight than the concurrency."""
    model = open_model({"name": "m", "model": "m", "base_url": url, "max_concurrency": concurrency})
    gate = asyncio.Semaphore(2 * concurrency)
    noise = os.urandom(IMAGE_BYTES)

    async def one(number: int) -> None:
        try:
            image = b"\xff\xd8\xff" + noise  # a fresh copy, as a file would give
            sampling = Sampling(seed=number)
            asked = Request("describe", "Describe.", image, sampling, "", "", "street_view")
            await model.complete(asked)
        finally:
            gate.release()

    async with asyncio.TaskGroup() as tasks:
        for number in range(count):
            await gate.acquire()
            tasks.create_task(one(number))
    await model.close()


async def bare(url: str, count: int, concurrency: int) -> None:
    """Send the same bytes through plain sockets, as an upper bound on this machine."""
    host, port = url.removeprefix("http://").removesuffix("/v1").split(":")
    image = base64.b64encode(b"\xff\xd8\xff" + os.urandom(IMAGE_BYTES))
    body = b'{"messages": [{"content": "data:image/jpeg;base64,%s"}]}' % image
    head = b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body)
    left = count

    async def slot() -> None:
        nonlocal left
        reader, writer = await asyncio.open_connection(host, int(port))
        while left:
            left -= 1
            writer.write(head + body)
            await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(len(ANSWER))
        writer.close()

    async with asyncio.TaskGroup() as tasks:
        for _ in range(concurrency):
            tasks.create_task(slot())


def utilisation(
    ask: Callable[..., Coroutine[Any, Any, None]], count: int, concurrency: int
) -> float:
    """Total duration of requests over concurrency x wall time, at 200 ms latency."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process: Any = context.Process(target=server_process, args=(0.2, theirs))
    process.start()
    try:
        asyncio.run(ask(f"http://127.0.0.1:{ours.recv()}/v1", count, concurrency))
        ours.send("done")
        in_hand_s, requests, wall_s = ours.recv()
        assert requests == count, f"the server saw {requests} requests, not {count}"
        return float(in_hand_s / (concurrency * wall_s))
    finally:
        process.terminate()
        process.join()


def busy(turns: int = 3) -> None:
    for concurrency in (16, 32):
        count = 50 * concurrency
        ours, floor, cpu = [], [], []
        for _ in range(turns):  # alternating, so that other load affects both
            started = time.process_time()
            ours.append(utilisation(ask_many, count, concurrency))
            cpu.append((time.process_time() - started) / count)
            floor.append(utilisation(bare, count, concurrency))
        print(
            f"concurrency {concurrency}, {count} requests of {IMAGE_BYTES // 1000} kB, 200 ms: "
            f"busy {median(ours):.1%} ({min(ours):.1%} to {max(ours):.1%}), plain sockets "
            f"{median(floor):.1%}; {median(cpu) * 1e3:.2f} ms of CPU time per request"
        )


def caption(recipe: str) -> None:
    """Run a recipe and print the peak memory (in a subprocess)."""
    assert run(read_recipe(recipe)).finished
    print(peak_mb())


def memory(few: int = 20, many: int = 160) -> None:
    """Peak memory of runs with *simulated* models on images of a *synthetic* city.

    Memory holds the images in flight, the bounded phrase cache and the candidates of two shards.
    """
    peaks = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        side = int(many**0.5) + 1
        city = build_dataset(folder / "city", grid_size=side, street_views=1, with_masks=True)
        for images in (few, many):
            recipe = {
                "dataset_name": str(city),
                "output_dir": str(folder / str(images)),
                "synthetic": True,
                "views": ["street_view"],
                "max_images": images,
                "models": [{"name": f"synthetic-{name}", "client": "simulated"} for name in MODELS],
                "generate": {"captions_per_model": 1},
                "filter": {"detector": "simulated"},
                "run": {"images_per_shard": 10, "images_in_flight": 8, "gallery_size": 0},
            }
            path = folder / f"{images}.yaml"
            path.write_text(yaml.safe_dump(recipe))
            peaks.append(in_subprocess("benchmarks.captioning", "caption", path))
    print(
        f"peak memory of a run (synthetic): {peaks[1]:.0f} MB for {many} images, {peaks[0]:.0f} MB "
        f"for {few}: {peaks[1] / peaks[0]:.3f}"
    )


def main() -> None:
    name, *rest = sys.argv[1:] or [""]
    if name == "caption":
        caption(*rest)
        return
    parts: dict[str, Callable[[], None]] = {"busy": busy, "memory": memory}
    for part in [parts[name]] if name else parts.values():
        part()


if __name__ == "__main__":
    main()
