"""How near the downloader comes to its configured rate, against a fast loopback server.

    OMP_NUM_THREADS=1 python -m benchmarks.download

For each rate: items fetched a second, by the server's own clock, as a share of the rate; and the
most requests in any window of one second, which must not pass it. The server is a process of its
own, so that it does not wait for the downloader's Python.
"""

import argparse
import asyncio
import io
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
from PIL import Image

from dataset_builders.download import Fetcher, Item, Limit, Store, check_image


class Server(ThreadingHTTPServer):
    """Answers at once, always with the same picture, and notes when; tells it at /moments."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        pixels = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).resize((256, 256)).save(buffer, "JPEG", quality=70)
        self.picture = buffer.getvalue()
        self.moments: list[float] = []


class Handler(BaseHTTPRequestHandler):
    """One picture for every path but one."""

    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def do_GET(self) -> None:
        """Note the moment, then answer."""
        now = time.monotonic()
        body = self.server.picture
        if self.path == "/moments":
            body = json.dumps(self.server.moments).encode()
        else:
            self.server.moments.append(now)
        self.send_response(200)
        self.send_header("Content-Type", "image/jpeg")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def serve() -> None:
    """Serve until killed (a child's job); prints the port."""
    with Server() as server:
        print(server.server_port, flush=True)
        server.serve_forever()


def measure(rate: float, seconds: float) -> tuple[float, int]:
    """The share of the rate that is reached, and the most requests in a second."""
    import httpx2

    command = [sys.executable, "-m", "benchmarks.download", "--serve"]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server,
        tempfile.TemporaryDirectory() as folder,
    ):
        assert server.stdout is not None
        url = f"http://127.0.0.1:{server.stdout.readline().strip()}"
        count = int(rate * seconds)
        try:
            done = asyncio.run(fetch(url, count, Limit(rate, 32), folder))
            moments = np.sort(httpx2.get(f"{url}/moments").json())
        finally:
            server.terminate()
    if done != count:
        raise SystemExit(f"{count - done} of {count} items failed.")
    reached = (len(moments) - 1) / (moments[-1] - moments[0])
    windows = np.searchsorted(moments, moments + 1.0, side="left") - np.arange(len(moments))
    return reached / rate, int(windows.max())


async def fetch(url: str, count: int, limit: Limit, folder: str) -> int:
    """Fetch so many items; returns how many came."""
    store = Store(folder)
    items = (Item(f"demo/{n}", f"{url}/{n}") for n in range(count))
    try:
        async with Fetcher(store, {"127.0.0.1": limit}) as fetcher:
            found = [one async for one in fetcher.fetch_all(items, check_image)]
    finally:
        store.close()
    return sum(one.status == "ok" for one in found)


def main(argv: Sequence[str] | None = None) -> None:
    """Print a line for each rate."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rates", type=float, nargs="+", default=[10.0, 50.0, 200.0])
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.serve:
        serve()
        return
    for rate in arguments.rates:
        share, most = measure(rate, arguments.seconds)
        print(f"{rate:6.0f}/s: {share:7.1%} reached; {most} requests in the fullest second")


if __name__ == "__main__":
    main()
