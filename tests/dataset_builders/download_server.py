"""Loopback server whose responses are named in the path: /ok/7, /flaky/3, /quota/1, ..."""

import email.utils
import gzip
import io
import threading
import time
from urllib.parse import urlencode

import numpy as np
from PIL import Image

from dataset_builders.download import Item, check_image

from .loopback import Loopback, with_fetcher

PNG = {"Content-Type": "image/png"}


def picture(seed: int, format: str = "PNG", size: int = 32) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format)
    return buffer.getvalue()


def blank() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), (9, 9, 9)).save(buffer, "PNG")
    return buffer.getvalue()


def zipped(body: bytes) -> tuple[int, dict[str, str], bytes]:
    return 200, {**PNG, "Content-Encoding": "gzip"}, gzip.compress(body)


class Server(Loopback):
    """Responds according to the name in the path: /ok/7, /flaky/3, /quota/1, ...

    Attributes:
        done: Releases the requests of `held`.
        five: Releases the requests of `fives` when five are waiting.
    """

    def __init__(self):
        super().__init__()
        self.moments, self.elsewhere, self.now, self.most = [], "", 0, 0
        self.done, self.five = threading.Event(), threading.Barrier(5)

    def __exit__(self, *_):
        self.done.set()
        super().__exit__()

    def answer(self, request):
        _, kind, number = request.path.split("/")
        with self.lock:
            self.moments.append(time.monotonic())
            self.now += 1
            self.most = max(self.most, self.now)
        try:
            return self.made(kind, int(number), self.asked[request.path], request)
        finally:
            with self.lock:
                self.now -= 1

    def made(self, kind, number, times, request):
        right = (200, PNG, picture(number))
        if kind in ("quota", "denied"):
            # three of four slots are held, so all earlier requests are settled
            while sum(path.startswith("/held/") for path in list(self.asked)) < 3:
                time.sleep(0.001)
        if kind == "slow":
            time.sleep(0.05)
        elif kind == "held":
            self.done.wait()
        elif kind == "fives":
            self.five.wait()
        later = email.utils.formatdate(time.time() + 1, usegmt=True)
        first = {
            "busy": (429, {"Retry-After": "0.2"}, b""),
            "dated": (503, {"Retry-After": later}, b""),
        }
        query = urlencode(request.query)
        always = {
            "moved": (302, {"Location": f"/ok/{number}"}, b""),
            "away": (302, {"Location": f"{self.elsewhere}/ok/{number}?{query}"}, b""),
            "nowhere": (302, {"Location": "s3://bucket/key"}, b""),
            "round": (302, {"Location": request.path}, b""),
            "dead": (503, {}, b""),
            "gone": (404, {}, b""),
            "html": (200, {"Content-Type": "text/html"}, b"<html>please log in</html>"),
            "broken": (200, {"Content-Type": "image/jpeg"}, picture(number, "JPEG", 64)[:-200]),
            "blank": (200, PNG, blank()),
            "same": (200, PNG, picture(0)),
            "empty": (200, PNG, b""),
            "quota": (200, {"Content-Type": "application/json"}, b'{"message": "quota"}'),
            "denied": (403, {}, b""),
            "zipped": zipped(picture(number)),
            "torn": (*zipped(picture(number))[:2], gzip.compress(picture(number))[:-20]),
            "noise": (*zipped(b"")[:2], b"no gzip data at all"),
            "other": (200, {**PNG, "Content-Encoding": "br"}, picture(number)),
        }
        if kind == "flaky":
            return right if times >= 3 else (500, {}, b"")
        if kind in first and times == 1:
            return first[kind]
        return always.get(kind, right)


def items(server, kind, numbers, **fields):
    return [Item(f"{kind}/{n}", f"{server.url}/{kind}/{n}", **fields) for n in numbers]


def fetch(folder, wanted, check=check_image, **settings):
    async def job(fetcher, _):
        return {one.key: one async for one in fetcher.fetch_all(wanted, check)}

    return with_fetcher(folder, job, **settings)


__all__ = ["PNG", "Server", "fetch", "items", "picture", "zipped"]
