"""Export to ONNX, int8, OpenVINO and sentence-transformers, verified against torch.

<output>/onnx/vision_model.onnx text_model.onnx            any batch size and text length
<output>/onnx/vision_model_int8.onnx text_model_int8.onnx  8-bit weights
<output>/openvino/vision_model.xml text_model.xml
<output>/sentence_transformers/                            SentenceTransformer(folder)
<output>/export.json                                       deviations from torch
"""

import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from dataset_builders.errors import MissingExtraError
from dataset_builders.files import WrittenFiles, write_json
from dataset_builders.hub_errors import explain
from dataset_builders.images import decode_image

from ..common.errors import InputError
from . import FORMATS

EXTRA, EXPORT_FILE, FILES_KIND = "export", "export.json", "export"
# float formats differ by the order of summation, int8 by quantisation
MAX_DIFFERENCE, MIN_COSINE_INT8 = 1e-3, 0.99
LENGTHS = (8, 77)
VISION, TEXT = "vision_model", "text_model"
INPUTS = {VISION: ("pixel_values",), TEXT: ("input_ids", "attention_mask")}
OUTPUTS = {VISION: ("image_features", "image_embeds"), TEXT: ("text_features", "text_embeds")}
Arrays = dict[str, NDArray[Any]]
Run = Callable[[Arrays], Sequence[NDArray[Any]]]


class VisionTower(nn.Module):
    """Images to projected features and L2-normalised embeddings, each `(batch_size, dim)`.

    Args:
        model: UrbanLN, CLIP or SigLIP.
    """

    def __init__(self, model: Any):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """Encode images of shape `(batch_size, 3, height, width)`."""
        features = self.model.get_image_features(pixel_values=pixel_values).pooler_output
        return features, F.normalize(features, dim=-1)


class TextTower(nn.Module):
    """Texts to projected features and L2-normalised embeddings, each `(batch_size, dim)`."""

    def __init__(self, model: Any):
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Encode token ids of shape `(batch_size, length)`."""
        features = self.model.get_text_features(
            input_ids=input_ids, attention_mask=attention_mask
        ).pooler_output
        return features, F.normalize(features, dim=-1)


def _sample_inputs(model: Any, name: str, batch: int, length: int, seed: int) -> dict[str, Tensor]:
    """Random inputs in the processor's format; texts end at different positions and are padded."""
    generator = torch.Generator().manual_seed(seed)
    if name == VISION:
        size = model.config.vision_config.image_size
        return {"pixel_values": torch.randn(batch, 3, size, size, generator=generator)}
    text = model.config.text_config
    ids = torch.randint(1, text.vocab_size - 2, (batch, length), generator=generator)
    mask = torch.ones_like(ids)
    for row in range(batch):
        end = length - 1 - row * (length - 2) // max(batch, 1)
        ids[row, end:] = text.eos_token_id
        mask[row, end + 1 :] = 0
    return {"input_ids": ids, "attention_mask": mask}


def _make_tower(model: Any, name: str) -> nn.Module:
    return (VisionTower(model) if name == VISION else TextTower(model)).eval()


@dataclass(frozen=True)
class Check:
    """Deviation of an export from the model.

    Attributes:
        file: Path relative to the output folder.
        max_difference: Maximum absolute difference of L2-normalised embeddings.
        min_cosine: Minimum cosine similarity to the model's embeddings.
        vectors: Number of compared embeddings.
        on: Inputs compared.
    """

    file: str
    max_difference: float
    min_cosine: float
    vectors: int
    on: str


def export(
    model_name_or_path: str,
    output_dir: str | Path,
    formats: Sequence[str] = FORMATS,
    images: Sequence[Path] = (),
) -> list[Check]:
    """Export a model and compare the exports with it.

    Args:
        model_name_or_path: Folder or Hub id of an UrbanLN, CLIP or SigLIP model.
        output_dir: Output folder, see the module.
        formats: Subset of [`FORMATS`]; "int8" needs "onnx".
        images: Images to compare the vision tower on, besides noise.

    Raises:
        InputError: If there is no such model, a format is unknown, or an export deviates too much;
            nothing is written then.
        ForeignFileError: If a file to replace was not written by this function, or was edited.
        MissingExtraError: If a package of the extra is missing.
    """
    unknown = set(formats) - set(FORMATS)
    if unknown:
        raise InputError(
            f"Formats must be among {', '.join(FORMATS)}; got {', '.join(sorted(unknown))}."
        )
    if "int8" in formats and "onnx" not in formats:
        raise InputError("The format int8 needs onnx: pass both.")
    files = WrittenFiles(output_dir, FILES_KIND)
    files.check([EXPORT_FILE])  # fail early
    model, processor = _load(model_name_or_path)
    with files.staging() as output:
        checks: list[Check] = []
        for name in (VISION, TEXT):
            samples = list(_samples(model, processor, name, images))
            checks += _export_tower(model, name, output, formats, samples)
        if "sentence_transformers" in formats:
            checks.append(_export_sentence_transformers(model, processor, output))
        if Path(output_dir).resolve() != Path(model_name_or_path).resolve():
            processor.save_pretrained(output)
        _refuse_far(checks)
        write_json(output / EXPORT_FILE, [asdict(one) for one in checks])
    return checks


def _load(name: str) -> tuple[Any, Any]:
    import transformers

    import modeling_urbanln  # noqa: F401 - registers the auto classes

    try:
        model = transformers.AutoModel.from_pretrained(name)
        processor = transformers.AutoProcessor.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise InputError(f"No usable model at {name!r}: {explain(error, name) or error}") from error
    if not hasattr(model, "get_image_features"):
        raise InputError(
            f"{name!r} is a {type(model).__name__}; only UrbanLN, CLIP and SigLIP can be exported."
        )
    return model.float().eval(), processor


def _samples(
    model: Any, processor: Any, name: str, images: Sequence[Path]
) -> Iterable[tuple[str, dict[str, Tensor]]]:
    most = int(model.config.text_config.max_position_embeddings)
    for seed, batch in enumerate((1, 3)):
        for length in (*LENGTHS, most) if name == TEXT else (1,):
            yield "noise", _sample_inputs(model, name, batch, min(length, most), seed)
    if name == VISION and images:
        opened = [decode_image(path) for path in images]
        pixels = processor.image_processor(images=opened, return_tensors="pt")
        yield "images", {"pixel_values": pixels["pixel_values"]}


def _export_tower(
    model: Any,
    name: str,
    output: Path,
    formats: Sequence[str],
    samples: Sequence[tuple[str, dict[str, Tensor]]],
) -> list[Check]:
    tower = _make_tower(model, name)
    graph = output / "onnx" / f"{name}.onnx"
    if {"onnx", "openvino"} & set(formats):
        _to_onnx(model, tower, name, graph)
    checks = []
    if "onnx" in formats:
        checks.append(_check(tower, name, graph, output, samples, _onnx_runner(graph, name)))
    if "int8" in formats:
        small = graph.with_name(f"{name}_int8.onnx")
        _to_int8(graph, small)
        checks.append(_check(tower, name, small, output, samples, _onnx_runner(small, name)))
    if "openvino" in formats:
        path = output / "openvino" / f"{name}.xml"
        run = _to_openvino(graph, path, name)
        checks.append(_check(tower, name, path, output, samples, run))
    if "onnx" not in formats:  # only needed for OpenVINO
        shutil.rmtree(graph.parent, ignore_errors=True)
    return checks


def _to_onnx(model: Any, tower: nn.Module, name: str, path: Path) -> None:
    try:
        import onnxruntime  # noqa: F401 - fail early
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(str(error.name), EXTRA) from error
    path.parent.mkdir(parents=True, exist_ok=True)
    batch = torch.export.Dim("batch")
    axes: dict[int, Any] = {0: batch}
    if name == TEXT:
        most = int(model.config.text_config.max_position_embeddings)
        axes[1] = torch.export.Dim("length", max=most)
    inputs = _sample_inputs(model, name, 2, LENGTHS[0], 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about axis names that the exporter merges
        program = torch.onnx.export(
            tower,
            tuple(inputs.values()),
            dynamo=True,
            verbose=False,
            input_names=list(INPUTS[name]),
            output_names=list(OUTPUTS[name]),
            dynamic_shapes=dict.fromkeys(INPUTS[name], axes),
        )
    if program is None:
        raise InputError("torch could not export the model to ONNX.")
    program.save(path)


def _to_int8(graph: Path, path: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    # The first convolution is not quantised: it is small, and its error affects all layers.
    # reduce_range (7-bit weights): on CPUs without VNNI, AVX2 sums products of 8-bit weights in 16
    # bits, which overflow (cosine 0.6 for a text tower).
    quantize_dynamic(
        graph,
        path,
        op_types_to_quantize=["MatMul", "Gemm"],
        weight_type=QuantType.QInt8,
        per_channel=True,
        reduce_range=True,
        extra_options={"MatMulConstBOnly": True},
    )


def _to_openvino(graph: Path, path: Path, name: str) -> Run:
    try:
        import openvino
    except ImportError as error:
        raise MissingExtraError("openvino", EXTRA) from error
    path.parent.mkdir(parents=True, exist_ok=True)
    openvino.save_model(openvino.convert_model(graph), path, compress_to_fp16=False)
    # the default may be 16 bits, depending on the CPU
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(inputs: Arrays) -> Sequence[NDArray[Any]]:
        found = compiled({key: inputs[key] for key in INPUTS[name]})
        return [found[index] for index in range(len(OUTPUTS[name]))]

    return run


def _onnx_runner(path: Path, name: str) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(list(OUTPUTS[name]), inputs)


@torch.inference_mode()
def _check(
    tower: nn.Module,
    name: str,
    path: Path,
    output: Path,
    samples: Sequence[tuple[str, dict[str, Tensor]]],
    run: Run,
) -> Check:
    far, near, count = 0.0, 1.0, 0
    for _, inputs in samples:
        expected = tower(**inputs)[1].numpy()
        found = run({key: value.numpy() for key, value in inputs.items()})[1]
        far = max(far, float(np.abs(found - expected).max()))
        near = min(near, float((found * expected).sum(axis=1).min()))
        count += len(expected)
    on = " and ".join(dict.fromkeys(said for said, _ in samples))
    return Check(path.relative_to(output).as_posix(), far, near, count, on)


def _export_sentence_transformers(model: Any, processor: Any, output: Path) -> Check:
    """Save a folder for SentenceTransformer with the weights of the plain CLIP or SigLIP."""
    try:
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.base.modules import Transformer
    except ImportError as error:
        raise MissingExtraError("sentence-transformers", EXTRA) from error
    from transformers import CLIPProcessor

    folder = output / "sentence_transformers"
    with tempfile.TemporaryDirectory() as plain:
        _plain(model).save_pretrained(plain)
        CLIPProcessor(processor.image_processor, processor.tokenizer).save_pretrained(plain)
        # a plain SigLIP does not pad texts to full length
        is_masked = "attention_mask" in processor.tokenizer.model_input_names
        settings = {} if is_masked else {"text": {"padding": "max_length"}}
        transformer = Transformer(plain, processing_kwargs=settings)
        SentenceTransformer(modules=[transformer], device="cpu").save(str(folder))
    loaded = SentenceTransformer(str(folder), device="cpu")
    texts = ["a street with trees", "a factory beside a river, " * 60]
    image = Image.fromarray(np.arange(64 * 48 * 3, dtype=np.uint8).reshape(48, 64, 3))
    inputs = processor(text=texts, images=[image], return_tensors="pt")
    pixels = {"pixel_values": inputs.pop("pixel_values")}
    with torch.inference_mode():
        expected = torch.cat(
            [_make_tower(model, TEXT)(**inputs)[1], _make_tower(model, VISION)(**pixels)[1]]
        ).numpy()
    encode = partial(loaded.encode, normalize_embeddings=True, show_progress_bar=False)
    found = np.concatenate([np.asarray(encode(texts)), np.asarray(encode([image]))])
    far = float(np.abs(found - expected).max())
    near = float((found * expected).sum(axis=1).min())
    return Check(folder.name, far, near, len(found), "texts and an image")


def _plain(model: Any) -> Any:
    plain_class = getattr(model, "source_class", type(model))
    names = ("text_config", "vision_config", "projection_dim")
    fields = {name: value for name, value in model.config.to_dict().items() if name in names}
    fields["text_config"].pop("model_type", None)
    plain = plain_class(plain_class.config_class(**fields)).eval()
    plain.load_state_dict(model.state_dict())
    return plain


def _refuse_far(checks: Sequence[Check]) -> None:
    for one in checks:
        is_int8 = one.file.endswith("_int8.onnx")
        good = one.min_cosine >= MIN_COSINE_INT8 if is_int8 else one.max_difference < MAX_DIFFERENCE
        if not good:
            raise InputError(
                f"{one.file} deviates too much from the model: cosine {one.min_cosine:.4f}, "
                f"difference {one.max_difference:.2g}. Omit this format."
            )


__all__ = ["Check", "export"]
