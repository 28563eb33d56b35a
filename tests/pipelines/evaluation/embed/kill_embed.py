"""Embed the toy city and kill this process at the n-th call of a function (n = 0: never).

python kill_embed.py DATASET MODEL OUTPUT embed._add_batch 3
"""

import os
import signal
import sys
from pathlib import Path

import pipelines.evaluation.embed.images as embed
from pipelines.common.encoders.transformers_models import load_model_encoder
from pipelines.evaluation.embed.sources import open_images

MODULES = {"embed": embed, "os": os}
SETTINGS = embed.EmbedSettings(batch_size=8, chunk_size=24, num_workers=2)


def kill_at_call(module: object, name: str, n: int) -> None:
    function = getattr(module, name)
    calls = 0

    def counted(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == n:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)

    setattr(module, name, counted)


def main() -> None:
    dataset, model, output, where, n = sys.argv[1:]
    encoder, source = load_model_encoder(model), open_images(dataset, "toytown")
    module, name = where.split(".")
    kill_at_call(MODULES[module], name, int(n))
    embed.embed(encoder, source, Path(output), "urbanln", SETTINGS)


if __name__ == "__main__":
    main()
