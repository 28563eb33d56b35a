import dataclasses
import shutil

from datasets import load_dataset
from huggingface_hub import DatasetCard

from .test_storage import METADATA, build


def card(root) -> DatasetCard:
    return DatasetCard.load(root / "README.md")


def test_card_has_hub_metadata_and_statistics(tmp_path):
    page = card(build(tmp_path, count=3))
    data, text = page.data.to_dict(), page.text
    assert data["license"] == "mit"
    assert data["size_categories"] == ["n<1K"]
    assert [(config["config_name"], config["data_files"]) for config in data["configs"]] == [
        (name, [{"split": "train", "path": f"data/{name}/part-*.parquet"}])
        for name in ("gotham-regions", "gotham-street_view")
    ]
    assert "| `gotham-street_view` | 8 | 8 | 2 (2-2) |" in text
    assert "5 regions, 4 with street view images, 1 with no image, 1 with no geometry." in text
    assert "| `population` | people | count | ln(y + 1) | 4 | 1 | 150 | 129.1 | 0 | 300 |" in text
    assert "| `split_random` | 4 | 0 | 0 | 1 |" in text
    assert "Built with `seed`: 0" in text
    assert "Rejected: 0 items" in text


def test_code_of_the_card_runs(tmp_path):
    root = build(tmp_path / "d", count=3)
    code = card(root).text.split("```python\n")[1].split("```")[0]
    code = code.replace("path/to/this/folder", str(root))
    names: dict = {}
    exec(code.replace('split="train")', f'split="train", cache_dir="{tmp_path}/c")'), names)
    assert len(names["images"]) == 8
    assert len(names["regions"]) == 5


def test_load_dataset_distinguishes_folders_of_the_same_name(tmp_path):
    """Its cache identifies a local folder by its name and the configs of its card."""
    for folder, count in (("a", 3), ("b", 2), ("a", 4)):
        shutil.rmtree(tmp_path / folder, ignore_errors=True)
        root = build(tmp_path / folder / "dataset", count)
        cache = str(tmp_path / "cache")
        rows = load_dataset(str(root), "gotham-street_view", split="train", cache_dir=cache)
        assert len(rows) == count + 5


def test_simulated_data_are_marked_synthetic(tmp_path):
    synthetic = dataclasses.replace(METADATA, synthetic=True)
    page = card(build(tmp_path, count=1, metadata=synthetic))
    assert page.data.pretty_name == "Test (synthetic)"
    assert "synthetic" in page.data.tags
    assert "# Test (synthetic)" in page.text
    assert "**Synthetic.** All data are simulated" in page.text
    assert "ynthetic" not in card(build(tmp_path / "real", count=1)).content
