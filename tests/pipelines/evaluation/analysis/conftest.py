"""A small city with an embedding table, and probed results of it."""

import numpy as np
import pytest

from pipelines.common.encoders.colour_texture import ColourTextureEncoder
from pipelines.evaluation.embed.images import EmbedSettings, embed
from pipelines.evaluation.embed.sources import open_images
from pipelines.evaluation.embed.tables import EmbeddingTable, read_embeddings
from pipelines.evaluation.embed.trainings import Training
from pipelines.evaluation.probe.city import open_city
from pipelines.evaluation.probe.run import ProbeSettings, probe
from tests.pipelines.evaluation.toy import CITY, build_toy


@pytest.fixture(scope="session")
def results(tmp_path_factory):
    """Results of a table, of `net` with two seeds, and of its variant `less` with three."""
    folder = tmp_path_factory.mktemp("results")
    dataset = str(build_toy(folder / "dataset", side=12, street_views=1))
    source = open_images(dataset, CITY)
    path = embed(ColourTextureEncoder(), source, folder, "colour_texture", EmbedSettings())
    table = read_embeddings(path)
    tables = [table]
    rng = np.random.default_rng(0)
    for group, against, seeds in (("net", None, (0, 1)), ("less", "net", (0, 1, 7))):
        for seed in seeds:
            noise = rng.normal(0, 30, table.vectors["satellite"].shape)
            vectors = {view: (x + noise).astype(np.float32) for view, x in table.vectors.items()}
            metadata = table.metadata | Training(group, seed, against).metadata()
            label = f"{group}-s{seed}"
            tables.append(EmbeddingTable(label, metadata, table.region_ids, vectors, label * 2))
    settings = ProbeSettings(seeds=2, probes=("ridge",), views=("satellite", "both"))
    probe(open_city(dataset, CITY), tables, folder, settings, lambda batches, **_: batches)
    return folder
