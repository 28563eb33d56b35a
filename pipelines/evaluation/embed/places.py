"""Places of regions as vectors, by GeoCLIP's location encoder: no image is read.

A control to put beside encoders of images: coordinates that know the world. The table is one like
any other, so that `predict`, `probe --beside` and search take it too.
"""

from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np

from pipelines.common.encoders.geoclip import encode_places

from .tables import BOTH, earlier_metadata, write_embeddings
from .trainings import Training

ENCODER = "geoclip"
USES = ["coordinates", ENCODER]


def embed_places(
    regions: gpd.GeoDataFrame,
    output: Path,
    label: str,
    description: dict[str, Any],
    training: Training | None = None,
    device: str = "cpu",
) -> Path:
    """Write one vector per region, of its point `lon`, `lat`.

    Args:
        regions: Regions with `region_id`, `lon` and `lat` in degrees (WGS-84); a region without a
            place gets no vector.
        output: Folder of the table.
        label: Name of the system; the table is `<output>/<label>.parquet`.
        description: What the metadata says of the dataset.
        training: System that this is one training of.
        device: Device the encoder runs on.

    Returns:
        The path of the table. Its vectors, of 512 numbers, are in the column `both`.

    Raises:
        InputError: The package with the weights is not installed, or another file is in the way.
    """
    path = output / f"{label}.parquet"
    earlier_metadata(path)
    lon, lat = (regions[name].to_numpy(np.float64, na_value=np.nan) for name in ("lon", "lat"))
    vectors, fingerprint = encode_places(lon, lat, device)
    metadata = {
        **description,
        "label": label,
        "encoder": ENCODER,
        "fingerprint": fingerprint,
        "dim": vectors.shape[1],
        "pooling": "region point",
        "uses": USES,
        **(training.metadata() if training else {}),
    }
    output.mkdir(parents=True, exist_ok=True)
    write_embeddings(path, regions["region_id"].tolist(), {}, {BOTH: vectors}, metadata)
    return path


__all__ = ["embed_places"]
