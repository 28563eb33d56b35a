import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForPreTraining,
    AutoProcessor,
    AutoTokenizer,
    pipeline,
)

from modeling_urbanln import (
    UrbanLNConfig,
    UrbanLNForPreTraining,
    UrbanLNModel,
    UrbanLNProcessor,
)

ROOT = Path(__file__).resolve().parents[2]
# neither the path nor the finder of an editable install may offer the package
HIDE_CHECKOUT = """
import sys
sys.path = [path for path in sys.path if path != {root!r}]
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
"""
OUTSIDE = """
import sys
import torch
from transformers import AutoModel, AutoModelForPreTraining, AutoProcessor, pipeline
from PIL import Image
folder, out = sys.argv[1:]
assert not any(name.startswith("modeling_urbanln") for name in sys.modules)
model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
inputs = processor(text=["a street with trees"], images=[Image.new("RGB", (64, 48), "green")],
                   return_tensors="pt")
with torch.no_grad():
    logits = model(**inputs).logits_per_image
assert processor.truncation_report("a street").num_truncated == 0
twin = AutoModelForPreTraining.from_pretrained(folder, trust_remote_code=True)
assert type(twin).__name__ == "UrbanLNForPreTraining"
features = pipeline("image-feature-extraction", model=folder, trust_remote_code=True)
vector = features(Image.new("RGB", (64, 48), "green"))
scores = pipeline("zero-shot-image-classification", model=folder, trust_remote_code=True)(
    Image.new("RGB", (64, 48), "green"), candidate_labels=["a park", "a factory"])
torch.save({"logits": logits, "vector": torch.tensor(vector),
            "scores": [score["score"] for score in scores]}, out)
"""


def test_auto_classes_know_a_saved_folder(tiny_model_dir):
    assert isinstance(AutoConfig.from_pretrained(tiny_model_dir), UrbanLNConfig)
    assert type(AutoModel.from_pretrained(tiny_model_dir)) is UrbanLNModel
    assert type(AutoModelForPreTraining.from_pretrained(tiny_model_dir)) is UrbanLNForPreTraining
    assert isinstance(AutoProcessor.from_pretrained(tiny_model_dir), UrbanLNProcessor)
    assert AutoTokenizer.from_pretrained(tiny_model_dir).model_max_length == 248
    assert AutoImageProcessor.from_pretrained(tiny_model_dir).size == {"height": 30, "width": 30}


def test_a_saved_folder_works_where_the_package_is_unknown(tiny_model_dir, tmp_path):
    image = Image.fromarray(np.full((48, 64, 3), (0, 128, 0), dtype=np.uint8))
    model = AutoModel.from_pretrained(tiny_model_dir).eval()
    processor = AutoProcessor.from_pretrained(tiny_model_dir)
    inputs = processor(text=["a street with trees"], images=[image], return_tensors="pt")
    with torch.no_grad():
        expected = model(**inputs)
    script, out = tmp_path / "outside.py", tmp_path / "out.pt"
    script.write_text(HIDE_CHECKOUT.format(root=str(ROOT)) + OUTSIDE)
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hub"), "PYTHONPATH": ""}
    subprocess.run(
        [sys.executable, "-I", str(script), str(tiny_model_dir), str(out)],
        check=True,
        cwd=tmp_path,
        env=environment,
    )
    got = torch.load(out, weights_only=True)
    torch.testing.assert_close(got["logits"], expected.logits_per_image)
    torch.testing.assert_close(got["vector"], expected.image_embeds)
    torch.testing.assert_close(sum(got["scores"]), 1.0)


def test_library_pipelines_work_on_a_saved_folder(tiny_model_dir):
    image = Image.new("RGB", (64, 48), "gray")
    vector = pipeline("image-feature-extraction", model=str(tiny_model_dir))(image)
    np.testing.assert_allclose(np.linalg.norm(vector), 1.0, rtol=1e-5)
    labels = ["a park", "a factory", "a road"]
    scores = pipeline("zero-shot-image-classification", model=str(tiny_model_dir))(
        image, candidate_labels=labels
    )
    assert {score["label"] for score in scores} == set(labels)


def test_lora_adapter_merges_to_the_same_output(tiny_model_dir, tmp_path):
    from peft import LoraConfig, PeftModel, get_peft_model

    base = AutoModel.from_pretrained(tiny_model_dir).eval()
    adapted = get_peft_model(base, LoraConfig(target_modules=["q_proj", "v_proj"]))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    pixel_values = torch.randn(2, 3, 30, 30)
    expected = adapted(pixel_values=pixel_values).image_embeds
    adapted.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(AutoModel.from_pretrained(tiny_model_dir), tmp_path)
    merged = loaded.merge_and_unload().eval()
    torch.testing.assert_close(
        merged(pixel_values=pixel_values).image_embeds, expected, atol=1e-5, rtol=1e-4
    )
