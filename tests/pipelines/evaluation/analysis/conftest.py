"""A small city with an embedding table, and probed results of it."""

from dataclasses import replace

import numpy as np
import pytest

from pipelines.common.encoders.colour_texture import ColourTextureEncoder
from pipelines.evaluation.embed.images import EmbedSettings, embed
from pipelines.evaluation.embed.sources import open_images
from pipelines.evaluation.embed.tables import read_embeddings
from pipelines.evaluation.embed.trainings import Training
from pipelines.evaluation.probe.city import open_city
from pipelines.evaluation.probe.run import ProbeSettings, probe
from tests.pipelines.evaluation.toy import CITY, build_toy


def noisy(table, label, seed, training=None):
    """Copy of a table with noise added."""
    noise = np.random.default_rng(seed).normal(0, 30, table.vectors["satellite"].shape)
    vectors = {view: (x + noise).astype(np.float32) for view, x in table.vectors.items()}
    metadata = {**table.metadata, **(training.metadata() if training else {})}
    return replace(table, label=label, metadata=metadata, vectors=vectors, hash=label * 2)


@pytest.fixture(scope="session")
def results(tmp_path_factory):
    """Results of a table, a noisy copy, `net` with two seeds, and its variant `less` with three."""
    folder = tmp_path_factory.mktemp("results")
    dataset = str(build_toy(folder / "dataset", side=12, street_views=1))
    source = open_images(dataset, CITY)
    path = embed(ColourTextureEncoder(), source, folder, "colour_texture", EmbedSettings())
    table = read_embeddings(path)
    tables = [table, noisy(table, "noisy", 0)]
    for number, (group, against) in enumerate([("net", None), ("less", "net")]):
        for seed in (0, 1, 7)[: 2 + number]:
            training = Training(group, seed, against, differs="noise")
            tables.append(noisy(table, f"{group}-s{seed}", 2 * seed + number + 1, training))
    settings = ProbeSettings(seeds=3, probes=("ridge",), views=("satellite", "both"))
    probe(open_city(dataset, CITY), tables, folder, settings, lambda batches, **_: batches)
    return folder
