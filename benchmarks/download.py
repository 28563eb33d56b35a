"""How near the downloader comes to its configured rate, against a fast loopback server.

    OMP_NUM_THREADS=1 python -m benchmarks.download

For each rate: items fetched a second, by the server's own clock, as a share of the rate; and the
most requests in any window of one second, which must not pass it (by more than the one request
that a window's edge can take in).
"""

import argparse
import asyncio
import io
import tempfile
import threading
import time
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
from PIL import Image

from dataset_builders._http import Fetcher, Item, Limit, Store, check_image


class Server(ThreadingHTTPServer):
    """Answers at once, always with the same picture, and notes when."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        pixels = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).resize((256, 256)).save(buffer, "JPEG", quality=70)
        self.picture = buffer.getvalue()
        self.moments: list[float] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    """One picture for every path."""

    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def do_GET(self) -> None:
        """Note the moment, then answer."""
        self.server.moments.append(time.monotonic())
        self.send_response(200)
        self.send_header("Content-Type", "image/jpeg")
        self.send_header("Content-Length", str(len(self.server.picture)))
        self.end_headers()
        self.wfile.write(self.server.picture)


def measure(rate: float, seconds: float) -> tuple[float, int]:
    """The share of the rate that is reached, and the most requests in a second."""
    with Server() as server, tempfile.TemporaryDirectory() as folder:
        count = int(rate * seconds)
        url = f"http://127.0.0.1:{server.server_port}"

        async def run() -> int:
            store = Store(folder)
            items = (Item(f"demo/{n}", f"{url}/{n}") for n in range(count))
            try:
                async with Fetcher(store, {"127.0.0.1": Limit(rate, 32)}) as fetcher:
                    found = [one async for one in fetcher.fetch_all(items, check_image)]
            finally:
                store.close()
            return sum(one.status == "ok" for one in found)

        done = asyncio.run(run())
        moments = np.sort(server.moments)
        server.shutdown()
    if done != count:
        raise SystemExit(f"{count - done} of {count} items failed.")
    reached = (len(moments) - 1) / (moments[-1] - moments[0])
    windows = np.searchsorted(moments, moments + 1.0, side="left") - np.arange(len(moments))
    return reached / rate, int(windows.max())


def main(argv: Sequence[str] | None = None) -> None:
    """Print a line for each rate."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rates", type=float, nargs="+", default=[10.0, 50.0, 200.0])
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    arguments = parser.parse_args(argv)
    for rate in arguments.rates:
        share, most = measure(rate, arguments.seconds)
        print(f"{rate:6.0f}/s: {share:7.1%} reached; {most} requests in the fullest second")


if __name__ == "__main__":
    main()
