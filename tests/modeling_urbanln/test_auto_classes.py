import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForPreTraining,
    AutoProcessor,
)

from modeling_urbanln import (
    UrbanLNConfig,
    UrbanLNForPreTraining,
    UrbanLNModel,
    UrbanLNProcessor,
)

ROOT = Path(__file__).resolve().parents[2]
# hide the package on the path and in an editable install
OUTSIDE = """
import sys
sys.path = [path for path in sys.path if path != {root!r}]
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
import torch
from transformers import AutoModel, AutoModelForPreTraining, AutoProcessor, pipeline
from PIL import Image
folder, out = sys.argv[1:]
green, options = Image.new("RGB", (64, 48), "green"), {{"trust_remote_code": True}}
model = AutoModel.from_pretrained(folder, **options).eval()
processor = AutoProcessor.from_pretrained(folder, **options)
inputs = processor(text=["a street with trees"], images=[green], return_tensors="pt")
assert processor.truncation_report("a street").num_truncated == 0
twin = AutoModelForPreTraining.from_pretrained(folder, **options)
assert type(twin).__name__ == type(model).__name__.replace("Model", "ForPreTraining")
features = pipeline("image-feature-extraction", model=folder, **options)(green)
scores = pipeline("zero-shot-image-classification", model=folder, **options)(
    green, candidate_labels=["a park", "a factory"])
regions = pipeline("urban-region-feature-extraction", model=folder, **options)
region = {{"street_view": [green, green], "satellite": Image.new("RGB", (64, 48), "gray")}}
found = regions([region, region], return_type="torch")[1]
# what was loaded so can be saved, and loaded again
regions.model.save_pretrained(out + "/again")
regions.image_processor.save_pretrained(out + "/again")
again = pipeline("urban-region-feature-extraction", model=out + "/again", **options)
torch.testing.assert_close(again(region, return_type="torch"), found)
assert not any(name.startswith("modeling_urbanln") for name in sys.modules)
with torch.no_grad():
    torch.save({{"logits": model(**inputs).logits_per_image, "features": torch.tensor(features),
                "scores": [score["score"] for score in scores], "street": found["street_view"],
                "loss": twin(**inputs).loss}}, out + "/out.pt")
"""


def test_auto_classes_load_a_saved_folder(tiny_model_dir):
    assert isinstance(AutoConfig.from_pretrained(tiny_model_dir), UrbanLNConfig)
    assert type(AutoModel.from_pretrained(tiny_model_dir)) is UrbanLNModel
    assert type(AutoModelForPreTraining.from_pretrained(tiny_model_dir)) is UrbanLNForPreTraining
    processor = AutoProcessor.from_pretrained(tiny_model_dir)
    assert isinstance(processor, UrbanLNProcessor)
    assert processor.tokenizer.model_max_length == 248
    assert processor.image_processor.size == {"height": 30, "width": 30}


@pytest.mark.parametrize(
    "folder", ["tiny_model_dir", pytest.param("tiny_siglip_model_dir", marks=pytest.mark.slow)]
)
def test_saved_folder_works_without_the_package(folder, tmp_path, request):
    tiny_model_dir = request.getfixturevalue(folder)
    image = Image.new("RGB", (64, 48), "green")
    model = AutoModel.from_pretrained(tiny_model_dir).eval()
    processor = AutoProcessor.from_pretrained(tiny_model_dir)
    inputs = processor(text=["a street with trees"], images=[image], return_tensors="pt")
    with torch.no_grad():
        expected = model(**inputs)
    script = tmp_path / "outside.py"
    script.write_text(OUTSIDE.format(root=str(ROOT)))
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hub"), "PYTHONPATH": ""}
    command = [sys.executable, "-I", str(script), str(tiny_model_dir), str(tmp_path)]
    subprocess.run(command, check=True, cwd=tmp_path, env=environment)
    got = torch.load(tmp_path / "out.pt", weights_only=True)
    torch.testing.assert_close(got["logits"], expected.logits_per_image)
    torch.testing.assert_close(got["features"], expected.image_embeds)
    pooled = expected.vision_model_output.pooler_output[0]
    torch.testing.assert_close(got["street"], pooled)
    torch.testing.assert_close(sum(got["scores"]), 1.0)
    assert got["loss"].item() == 0  # one pair has no negatives
