"""Server utilisation and memory of the captioning client.

python -m benchmarks.captioning_client            # both
python -m benchmarks.captioning_client busy       # share of the allowed concurrency in use
python -m benchmarks.captioning_client memory     # resident memory after 1,000 and 6,000 requests
"""

import asyncio
import base64
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Coroutine
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

from pipelines.captioning.clients import open_model
from pipelines.captioning.records import Request, Sampling

ANSWER = json.dumps(
    {
        "choices": [{"message": {"content": "A street."}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 300, "completion_tokens": 3},
    }
).encode()
IMAGE_BYTES = 150_000  # a street view of 768 x 768
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


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


def resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES / 2**20


async def ask_many(url: str, count: int, concurrency: int, resident: list[float]) -> None:
    """Send requests as the captioning run does, with more images in flight than the concurrency."""
    model = open_model({"name": "m", "model": "m", "base_url": url, "max_concurrency": concurrency})
    gate = asyncio.Semaphore(2 * concurrency)
    noise = os.urandom(IMAGE_BYTES)
    done = 0

    async def one(number: int) -> None:
        nonlocal done
        try:
            image = b"\xff\xd8\xff" + noise  # a fresh copy, as a file would give
            sampling = Sampling(seed=number)
            asked = Request("describe", "Describe.", image, sampling, "", "", "street_view")
            await model.complete(asked)
            done += 1
            if done % 1000 == 0:
                resident.append(resident_mb())
        finally:
            gate.release()

    async with asyncio.TaskGroup() as tasks:
        for number in range(count):
            await gate.acquire()
            tasks.create_task(one(number))
    await model.close()


async def bare(url: str, count: int, concurrency: int, resident: list[float]) -> None:
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


def run(
    ask: Callable[..., Coroutine[Any, Any, None]], count: int, concurrency: int, latency_s: float
) -> tuple[float, list[float]]:
    """Utilisation of the server, and the client's memory after every thousand requests."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process: Any = context.Process(target=server_process, args=(latency_s, theirs))
    process.start()
    try:
        url = f"http://127.0.0.1:{ours.recv()}/v1"
        resident: list[float] = []
        asyncio.run(ask(url, count, concurrency, resident))
        ours.send("done")
        in_hand_s, requests, wall_s = ours.recv()
        if requests != count:
            raise RuntimeError(f"The server saw {requests} requests, not {count}.")
        return in_hand_s / (concurrency * wall_s), resident
    finally:
        process.terminate()
        process.join()


def busy(turns: int = 3) -> None:
    """Total duration of requests over concurrency x wall time, at 200 ms latency."""
    for concurrency in (16, 32):
        count = 50 * concurrency
        ours, floor, cpu = [], [], []
        for _ in range(turns):  # alternating, so that other load affects both
            started = time.process_time()
            ours.append(run(ask_many, count, concurrency, 0.2)[0])
            cpu.append((time.process_time() - started) / count)
            floor.append(run(bare, count, concurrency, 0.2)[0])
        ratio = median(a / b for a, b in zip(ours, floor, strict=True))
        print(
            f"concurrency {concurrency}, {count} requests of {IMAGE_BYTES // 1000} kB, 200 ms: "
            f"busy {median(ours):.1%} ({min(ours):.1%} to {max(ours):.1%}), plain sockets "
            f"{median(floor):.1%}; median ratio of {turns} runs {ratio:.3f}; "
            f"{median(cpu) * 1e3:.2f} ms of CPU time per request"
        )


def memory(count: int = 6000) -> None:
    _, resident = run(ask_many, count, 32, 0.01)
    print(
        f"resident memory: {resident[0]:.1f} MB after 1,000 requests, {resident[-1]:.1f} MB after "
        f"{count:,}: {resident[-1] / resident[0]:.3f}x"
    )


def main() -> None:
    parts = {"busy": busy, "memory": memory}
    for part in [parts[name] for name in sys.argv[1:]] or parts.values():
        part()


if __name__ == "__main__":
    main()
