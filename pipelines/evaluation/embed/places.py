"""Location embeddings of regions from GeoCLIP's pretrained location encoder.

A control for image encoders: location with world knowledge but no images. `predict`,
`probe --beside` and search accept the table like any other.
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
    """Write one location vector per region to `<output>/<label>.parquet`, column `both`.

    Args:
        regions: Regions with `region_id`, `lon` and `lat` in degrees (WGS-84); a region without
            coordinates gets no vector.
        output: Folder of the table.
        label: Name of the system.
        description: Metadata of the dataset.
        training: Training metadata to store with the table.
        device: Device of the encoder.

    Returns:
        Path of the table. Vectors have 512 dimensions.

    Raises:
        InputError: The package with the weights is not installed, or the path holds another file.
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
