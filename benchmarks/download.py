"""Throughput of the downloader relative to its configured rate, on a loopback server.

    OMP_NUM_THREADS=1 python -m benchmarks.download

Reports for each rate the requests per second by the server's clock, as a share of the rate, and the
maximum in any window of one second, which must not exceed it. The server runs in its own process,
so that it does not wait for the downloader.
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
    """Server that always returns the same image and lists its request times at /moments."""

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
    """Handler of image requests and of /moments."""

    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *_: object) -> None:
        """Disable logging."""

    def do_GET(self) -> None:
        """Record the time and respond."""
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
    """Print the port and serve until killed (in a subprocess)."""
    with Server() as server:
        print(server.server_port, flush=True)
        server.serve_forever()


def measure(rate: float, seconds: float) -> tuple[float, int]:
    """Achieved share of the rate, and the maximum number of requests in one second."""
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
    store = Store(folder)
    items = (Item(f"demo/{n}", f"{url}/{n}") for n in range(count))
    try:
        async with Fetcher(store, {"127.0.0.1": limit}) as fetcher:
            found = [one async for one in fetcher.fetch_all(items, check_image)]
    finally:
        store.close()
    return sum(one.status == "ok" for one in found)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rates", type=float, nargs="+", default=[10.0, 50.0, 200.0])
    parser.add_argument("--seconds", type=float, default=10.0, help="duration of a measurement")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.serve:
        serve()
        return
    for rate in arguments.rates:
        share, most = measure(rate, arguments.seconds)
        print(f"{rate:6.0f}/s: {share:7.1%} reached; at most {most} requests in one second")


if __name__ == "__main__":
    main()
