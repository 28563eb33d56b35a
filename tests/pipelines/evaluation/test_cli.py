import shutil
from dataclasses import replace

import pandas as pd
import pytest

from pipelines.evaluation.arguments import parse_arguments
from pipelines.evaluation.cli import main
from pipelines.evaluation.embed.sources import open_images
from pipelines.evaluation.embed.tables import read_embeddings
from pipelines.evaluation.errors import InputError
from pipelines.evaluation.probe.city import open_city
from tests.pipelines.evaluation.toy import CITY

WHERE = ["--dataset_name", "d", "--city", "c", "--output_dir", "o"]
MODEL = ["--model_name_or_path", "m"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["embeds"], "Unknown command 'embeds'; known are embed, baseline, "),
        (["embed", *WHERE[:-2]], "--output_dir is missing"),
        (["embed", *WHERE], "(?s)Give either --encoder or.*got neither.*  colour_texture +colour"),
        (["embed", *WHERE, *MODEL, "--encoder", "e"], "got both"),
        (["embed", *WHERE, *MODEL, "--label", "a/b"], "--label must be made of"),
        (["embed", *WHERE, *MODEL, "--batch_size", "0"], "--batch_size .* at least 1, got 0"),
        (["embed", *WHERE, "--model_name", "m"], "'--model_name'.*mean 'model_name_or_path'"),
        (["embed", *WHERE, *MODEL, "--raster", "a.tif"], "--encoder raster and --raster FILES"),
        (["embed", *WHERE, "--encoder", "geoclip", "--shard", "1/2"], "encoder geoclip has none"),
        (["embed_captions", *WHERE, *MODEL], "TF-IDF has no model"),
        (["embed_captions", *WHERE, "--encoder", "text_tower"], "--model_name_or_path is missing"),
        (["probe", *WHERE], "--embeddings is missing"),
        (["probe", "--embeddings", "e", *WHERE, "--protocols", "city"], "some of random, block"),
        (["probe", "--embeddings", "e", *WHERE, "--views", "both", "both"], "each once"),
        (["probe", "--embeddings", "e", *WHERE, "--controls", "x"], r"some of geoclip.* \['x'\]"),
        (["probe", "--embeddings", "e", *WHERE, "--seeds", "many"], "--seeds: invalid int"),
        (["transfer", *WHERE[:2], *WHERE[4:]], "--embeddings is missing"),
    ],
)
def test_invalid_arguments_raise(argv, message):
    with pytest.raises(InputError, match=message):
        parse_arguments(argv)


def test_duplicated_shards_raise(toy_dataset, tmp_path, tiny_model_dir, capsys):
    """Duplicate regions would leak test labels into training."""

    def duplicated(table):
        dataset = tmp_path / table
        shutil.copytree(toy_dataset, dataset)
        shards = dataset / "data" / f"{CITY}-{table}"
        shutil.copy(shards / "part-00000.parquet", shards / "part-00001.parquet")
        return str(dataset)

    with pytest.raises(InputError, match=f"{CITY}-satellite': 64 rows repeat the image_id"):
        open_images(duplicated("satellite"), CITY)
    where = ["--city", CITY, "--output_dir", str(tmp_path), "--dataset_name"]
    embed = ["embed", "--model_name_or_path", str(tiny_model_dir), *where]
    assert main([*embed, str(toy_dataset)]) == 0
    path = tmp_path / CITY / f"{tiny_model_dir.name}.parquet"
    assert read_embeddings(path).metadata["encoder"] == f"{path.stem} (UrbanLNModel)"
    dataset = duplicated("regions")
    for command in (embed, ["probe", "--embeddings", str(path), *where]):
        assert main([*command, dataset]) == 2
        assert "64 rows repeat the region_id" in capsys.readouterr().err
    assert not (tmp_path / CITY / "results.jsonl").exists()
    city = open_city(str(toy_dataset), CITY)
    twice = pd.concat([city.regions, city.regions.iloc[:2]], ignore_index=True)
    with pytest.raises(InputError, match="2 rows repeat the region_id"):
        replace(city, regions=twice)
