"""Exports run in other runtimes and give the model's embeddings."""

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor

import modeling_urbanln  # noqa: F401 - registers the auto classes
from pipelines.common.errors import InputError
from pipelines.release import export as exporting
from pipelines.release.export import Check, export
from pipelines.release.model_card import write_model_card
from pipelines.release.runs import read_run

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
pytest.importorskip("openvino")


@pytest.fixture(scope="module")
def exported(tiny_model_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    pictures = []
    for seed in range(3):
        pixels = np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        pictures.append(folder / f"{seed}.png")
        Image.fromarray(pixels).save(pictures[-1])
    return folder / "out", export(str(tiny_model_dir), folder / "out", images=pictures)


def test_every_format_equals_torch(exported):
    folder, checks = exported
    towers = [f"{tower}_model" for tower in ("vision", "text")]
    assert sorted(one.file for one in checks) == sorted(
        ["sentence_transformers"]
        + [f"onnx/{name}{end}.onnx" for name in towers for end in ("", "_int8")]
        + [f"openvino/{name}.xml" for name in towers]
    )
    for one in checks:
        assert one.min_cosine > 0.99
        assert one.max_difference < 1e-4 or "int8" in one.file
    sizes = {path.name: path.stat().st_size for path in (folder / "onnx").iterdir()}
    assert sizes["vision_model_int8.onnx"] < sizes["vision_model.onnx"]
    written = json.loads((folder / "export.json").read_text())
    assert [one["file"] for one in written] == [one.file for one in checks]
    vision = next(one for one in checks if one.file == "onnx/vision_model.onnx")
    assert (vision.on, vision.vectors) == ("noise and images", 1 + 3 + 3)


@pytest.mark.slow
def test_siglip_exports_read_texts_at_full_length(tiny_siglip_model_dir, tmp_path):
    checks = export(str(tiny_siglip_model_dir), tmp_path)
    assert len(checks) == 7
    for one in checks:
        assert one.min_cosine > (0.99 if "int8" in one.file else 0.999999)
    model = AutoModel.from_pretrained(tiny_siglip_model_dir).eval()
    inputs = AutoProcessor.from_pretrained(tiny_siglip_model_dir)(text=["a"], return_tensors="pt")
    with torch.no_grad():
        expected = model(**inputs).text_embeds.numpy()
    session = onnxruntime.InferenceSession(str(tmp_path / "onnx" / "text_model.onnx"))
    names = {one.name for one in session.get_inputs()}
    ids = inputs["input_ids"].numpy()
    fed = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    found = session.run(["text_embeds"], {name: fed[name] for name in names})[0]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_onnx_takes_any_batch_size_and_text_length(exported, tiny_model_dir):
    folder, _ = exported
    model = AutoModel.from_pretrained(tiny_model_dir).eval()
    processor = AutoProcessor.from_pretrained(tiny_model_dir)
    session = onnxruntime.InferenceSession(str(folder / "onnx" / "text_model.onnx"))
    for texts in (["a"], ["a street", "a factory beside a river"], ["tree " * 300] * 5):
        inputs = processor(text=texts, return_tensors="pt")
        with torch.no_grad():
            expected = model(**inputs).text_embeds.numpy()
        found = session.run(["text_embeds"], {k: v.numpy() for k, v in inputs.items()})[0]
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_onnx_runs_without_torch_and_as_the_card_shows(exported, tiny_model_dir, tmp_path):
    folder, _ = exported
    code = (
        "import sys, onnxruntime, numpy as np\n"
        f"s = onnxruntime.InferenceSession({str(folder / 'onnx' / 'vision_model_int8.onnx')!r})\n"
        "x = np.zeros((2, 3, 30, 30), np.float32)\n"
        "assert s.run(['image_embeds'], {'pixel_values': x})[0].shape == (2, 16)\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-I", "-c", code], check=True, cwd=tmp_path)
    run = tmp_path / "run"
    shutil.copytree(tiny_model_dir, run)
    shutil.copytree(folder / "onnx", run / "onnx")
    shutil.copy(folder / "export.json", run)
    text = write_model_card(read_run(run), "org/name").read_text()
    block = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[-1]
    found = {"hf_hub_download": lambda repo, file: str(run / file)}
    local = block.replace("from huggingface_hub import hf_hub_download\n", "")
    exec(local.replace('from_pretrained("org/name")', f"from_pretrained({str(run)!r})"), found)
    assert found["vectors"].shape == (1, 16)


def test_sentence_transformers_encodes_texts_and_images(exported, tiny_model_dir):
    from sentence_transformers import SentenceTransformer

    folder, _ = exported
    loaded = SentenceTransformer(str(folder / "sentence_transformers"), device="cpu")
    model = AutoModel.from_pretrained(tiny_model_dir).eval()
    processor = AutoProcessor.from_pretrained(tiny_model_dir)
    image = Image.new("RGB", (50, 40), "green")
    inputs = processor(text=["a long caption " * 40], images=[image], return_tensors="pt")
    with torch.no_grad():
        expected = model(**inputs)
    text = loaded.encode(["a long caption " * 40], normalize_embeddings=True)
    np.testing.assert_allclose(text, expected.text_embeds.numpy(), atol=1e-4)
    picture = loaded.encode([image], normalize_embeddings=True)
    np.testing.assert_allclose(picture, expected.image_embeds.numpy(), atol=1e-4)
    assert loaded.max_seq_length == 248


def test_rejects_wrong_formats_models_and_deviating_exports(tiny_model_dir, tmp_path):
    with pytest.raises(InputError, match="Formats must be among"):
        export(str(tiny_model_dir), tmp_path / "out", ["onxx"])
    with pytest.raises(InputError, match="int8 needs onnx"):
        export(str(tiny_model_dir), tmp_path / "out", ["int8"])
    with pytest.raises(InputError, match="No usable model"):
        export(str(tmp_path), tmp_path / "out")
    exporting._refuse_far([Check("onnx/text_model_int8.onnx", 1e-2, 0.995, 3, "noise")])
    for far in (Check("text_model.onnx", 1e-2, 0.999, 3, ""), Check("_int8.onnx", 0, 0.98, 3, "")):
        with pytest.raises(InputError, match="deviates too much from the model"):
            exporting._refuse_far([far])
    assert not (tmp_path / "out").exists()
