import geopandas as gpd
import numpy as np
import rasterio
from rasterio.transform import from_origin

from pipelines.prediction.cli import main
from tests.pipelines.prediction.conftest import CRS, ORIGIN, SIDE


def test_command_predicts_from_rasters_without_photos(town, tmp_path, capsys):
    """Squares of 100 m whose embeddings follow the height of their tract; one row is missing."""
    values = np.kron(town.values.reshape(SIDE, SIDE)[::-1], np.ones((5, 5)))
    rng = np.random.default_rng(0)
    bands = np.stack([values, values**2 / 60, rng.normal(size=values.shape)])
    bands += rng.normal(0, 2, bands.shape)
    bands[:, :5] = np.nan
    height, width = values.shape
    embeddings = tmp_path / "vectors.tif"
    with rasterio.open(
        embeddings, "w", driver="GTiff", count=3, height=height, width=width, dtype="float32",
        crs=CRS, transform=from_origin(ORIGIN[0], ORIGIN[1] + 100 * height, 100, 100),
    ) as file:  # fmt: skip
        file.write(bands.astype(np.float32))
    command = [
        *("--encoder", "raster", "--raster", str(embeddings), "--regions", str(town.tracts)),
        *("--region_id", "tract", "--indicator", "height", "--unit", "m"),
        *("--output_dir", str(tmp_path / "out")),
    ]
    assert main(command) == 0
    said = capsys.readouterr().err
    table = gpd.read_parquet(tmp_path / "out" / "predictions.parquet")
    assert (table["height_status"] == "no_image").sum() == SIDE
    assert f"{SIDE} regions are excluded: no data." in said
    assert len(gpd.pd.read_parquet(tmp_path / "out" / "rejects.parquet")) == SIDE
    hidden = table["height"].isna().to_numpy() & table["height_predicted"].notna().to_numpy()
    error = np.abs(table["height_predicted"] - town.values)[hidden]
    assert error.median() < 3
    assert set(table["n_images"]) == {0, 25}
    both = [*command, "--images", str(town.photos), "--encoder", "colour_texture"]
    assert main(both) == 2
    assert "--encoder raster with --raster" in capsys.readouterr().err
    start = command.index("--regions")
    squares = [*command[:start], "--side_m", "500", *command[start + 4 :]]
    assert main(squares) == 2
    assert "Without images, pass polygons by --regions" in capsys.readouterr().err
