import json
from pathlib import Path

import pytest
import torch
from open_clip import CLIPTextCfg, CLIPVisionCfg, image_transform
from open_clip.model import CLIP
from PIL import Image
from safetensors.torch import save_file
from transformers import AutoModel, AutoProcessor, CLIPConfig, CLIPModel

from modeling_urbanln import UrbanLNModel, UrbanLNProcessor
from pipelines.common.encoders.transformers_models import load_model_encoder
from pipelines.common.errors import InputError
from pipelines.release.__main__ import main
from pipelines.release.convert import convert_checkpoint, convert_state_dict, image_processor
from pipelines.release.fg_clip import long_text_config
from pipelines.release.state_dicts import read_state_dict

TOLERANCE, WRONG = 1e-4, 1e-3
END = 49407
ACTIVATIONS = ("gelu", "quick_gelu")


def open_clip_model(quick_gelu: bool, context_length: int = 77, **vision) -> CLIP:
    """Real architecture at small width, with all weights random, including biases."""
    torch.manual_seed(0)
    fields = {"layers": 2, "width": 128, "patch_size": 8, "image_size": 32, **vision}
    text = CLIPTextCfg(context_length=context_length, width=64, heads=1, layers=3)
    return randomise(CLIP(48, CLIPVisionCfg(**fields), text, quick_gelu)).eval()


@torch.no_grad()
def randomise(model):
    for name, parameter in sorted(model.named_parameters()):
        if name != "logit_scale":
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def inputs(length: int = 77) -> tuple[torch.Tensor, torch.Tensor]:
    """Images, and texts of different lengths, padded with 0 as in open_clip."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.zeros(3, length, dtype=torch.long)
    for row, end in enumerate((5, 40, length - 1)):
        ids[row, 0], ids[row, end] = 49406, END
        ids[row, 1:end] = torch.randint(1, 49000, (end - 1,), generator=generator)
    return torch.randn(3, 3, 32, 32, generator=generator), ids


@torch.no_grad()
def differences(theirs, ours, length: int = 77) -> list[float]:
    """Largest absolute difference of image features, text features and logits."""
    pixels, ids = inputs(length)
    padded_with_end = torch.where(ids == 0, END, ids)
    pairs = (
        (theirs.encode_image(pixels), ours.get_image_features(pixel_values=pixels).pooler_output),
        (theirs.encode_text(ids), ours.get_text_features(input_ids=padded_with_end).pooler_output),
        (
            theirs.get_logits(pixels, ids)[0],
            ours(pixel_values=pixels, input_ids=padded_with_end).logits_per_image,
        ),
    )
    return [(their - our).abs().max().item() for their, our in pairs]


@pytest.mark.parametrize("hidden_act", ACTIVATIONS)
def test_converted_model_equals_open_clip_with_its_activation_only(hidden_act):
    theirs = open_clip_model(quick_gelu=hidden_act == "quick_gelu")
    for one in ACTIVATIONS:
        found = differences(theirs, convert_state_dict(theirs.state_dict(), one))
        assert max(found) < TOLERANCE if one == hidden_act else min(found) > WRONG


def test_long_clip_merges_its_two_tables_of_text_positions(tmp_path):
    theirs = open_clip_model(quick_gelu=True, context_length=248)
    state = theirs.state_dict()
    kept = state["positional_embedding"].clone()
    # rows of the two tables that the model does not use
    state["positional_embedding_res"] = torch.cat([torch.full((20, 64), 9.0), kept[20:]])
    state["positional_embedding"] = torch.cat([kept[:20], torch.full((228, 64), 9.0)])
    torch.save(state, tmp_path / "longclip-B.pt")

    convert_checkpoint(tmp_path / "longclip-B.pt", tmp_path / "out", hidden_act="quick_gelu")

    loaded = AutoModel.from_pretrained(tmp_path / "out").eval()
    assert isinstance(loaded, UrbanLNModel)
    assert max(differences(theirs, loaded, 248)) < TOLERANCE
    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    assert isinstance(processor, UrbanLNProcessor)
    assert len(processor(text="a road " * 200)["input_ids"]) == 248


def save_fg_clip(folder: Path, without: str = "nothing") -> CLIPModel:
    """Save FG-CLIP's folder; return the CLIP that its code uses for long texts."""
    torch.manual_seed(0)
    tower = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    tower |= {"num_attention_heads": 4, "hidden_act": "gelu"}
    ids = {"bos_token_id": END - 1, "eos_token_id": END, "pad_token_id": END}
    config = CLIPConfig(
        text_config={**tower, **ids, "max_position_embeddings": 248},
        vision_config={**tower, "image_size": 32, "patch_size": 8},
        projection_dim=16,
    )
    clip = randomise(CLIPModel(config)).eval()
    state = clip.state_dict()
    name = "text_model.embeddings.position_embedding"
    table, unused = state[f"{name}.weight"], torch.full((248, 32), 9.0)
    state |= {
        f"{name}_ori.weight": torch.cat([table[:20], unused[20:]]),
        f"{name}_res.weight": torch.cat([unused[:20], table[20:]]),
        f"{name}.weight": torch.randn(77, 32),
        "text_filip_projection.weight": state["text_projection.weight"],
        "text_projection.weight": torch.randn(16, 32),
        "logit_scale_finegraind": torch.tensor(3.0),
        "logit_scale_hardneg": torch.tensor(3.0),
        "text_model.embeddings.position_ids": torch.arange(248)[None],
    }
    folder.mkdir()
    kept = {key: value for key, value in state.items() if without not in key}
    save_file(kept, folder / "model.safetensors")
    fields = config.to_dict() | {"architectures": ["FGCLIPModel"]}
    fields["text_config"] |= {"max_position_embeddings": 77, "eos_token_id": 2}
    fields["auto_map"] = {"AutoModelForCausalLM": "modeling_fgclip.FGCLIPModel"}
    (folder / "config.json").write_text(json.dumps(fields))
    image_processor(32).save_pretrained(folder)
    return clip


def test_fg_clip_gives_the_embeddings_of_its_long_text_model(tmp_path, caplog):
    clip = save_fg_clip(tmp_path / "fg")
    convert_checkpoint(tmp_path / "fg", tmp_path / "out")
    assert "ignoring" in caplog.text
    model = AutoModel.from_pretrained(tmp_path / "out").eval()
    assert isinstance(model, UrbanLNModel)
    pixels, ids = inputs(length=248)
    batch = {"pixel_values": pixels, "input_ids": torch.where(ids == 0, END, ids)}
    with torch.no_grad():
        expected, found = clip(**batch), model(**batch)
    for name in ("image_embeds", "text_embeds", "logits_per_image"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name))
    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    assert len(processor(text="a road " * 200)["input_ids"]) == 248
    # the published folder gives the same image embeddings without its code
    picture = Image.new("RGB", (50, 40), (200, 100, 0))
    encoders = [load_model_encoder(str(tmp_path / name)) for name in ("fg", "out")]
    vectors = [torch.tensor(one.encode(one.prepare(picture)[None])) for one in encoders]
    torch.testing.assert_close(*vectors)


def test_rejects_fg_clip_that_is_incomplete_or_of_another_version(tmp_path):
    fg, out = tmp_path / "fg", tmp_path / "out"
    save_fg_clip(fg, without="position_embedding_ori")
    with pytest.raises(InputError, match=r"no text_model\..*position_embedding_ori\.weight"):
        convert_checkpoint(fg, out)
    with pytest.raises(InputError, match=r"omit --hidden_act"):
        convert_checkpoint(fg, out, hidden_act="gelu")
    with pytest.raises(InputError, match="text tower has 50 tokens"):
        long_text_config({"text_config": {"vocab_size": 50}}, 248)
    save_file({"text_model.head.weight": torch.zeros(2, 2)}, tmp_path / "fg2.safetensors")
    with pytest.raises(InputError, match=r"like FG-CLIP 2.*embed --encoder"):
        convert_checkpoint(tmp_path / "fg2.safetensors", out)


def test_reads_plain_wrapped_and_distributed_checkpoints(tmp_path):
    state = {"w": torch.ones(2)}
    distributed = {f"module.{key}": value for key, value in state.items()}
    torch.save(state, tmp_path / "plain.pt")
    torch.save({"epoch": 3, "state_dict": distributed}, tmp_path / "wrapped.bin")
    save_file(distributed, tmp_path / "distributed.safetensors")
    for path in list(tmp_path.iterdir()):
        assert read_state_dict(path).keys() == state.keys()


def test_command_writes_a_folder_that_embeds_as_open_clip(tmp_path, capsys):
    theirs = open_clip_model(quick_gelu=False)
    weights, out = tmp_path / "w.pt", tmp_path / "out"
    torch.save(theirs.half().state_dict(), weights)
    command = ["convert", str(weights), "--output_dir", str(out)]
    assert main(command) == 2
    assert "--hidden_act" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [weights]

    command += ["--hidden_act", "gelu"]
    assert main(command) == 0

    said = capsys.readouterr().out
    assert "images of 32 pixels in patches of 8, texts of up to 77 tokens" in said
    theirs, ours = theirs.float(), AutoModel.from_pretrained(out).eval()
    assert max(differences(theirs, ours)) < TOLERANCE
    processor = AutoProcessor.from_pretrained(out)
    ids = processor(text="a road " * 90, truncation=True, return_tensors="pt")["input_ids"]
    assert ids.shape == (1, 77)
    assert ids[0, -1] == ours.config.text_config.eos_token_id == END
    pixels = torch.randint(0, 256, (40, 56, 3), generator=torch.Generator().manual_seed(0))
    picture = Image.fromarray(pixels.to(torch.uint8).numpy())
    encoder = load_model_encoder(str(out))
    embedded = torch.tensor(encoder.encode(encoder.prepare(picture)[None])[0])
    with torch.no_grad():
        expected = theirs.encode_image(image_transform(32, is_train=False)(picture)[None])[0]
    # the libraries round differently when resizing
    assert torch.nn.functional.cosine_similarity(embedded, expected, dim=0) > 0.999

    before = sorted(out.iterdir())
    assert main(command) == 2
    assert "is not empty" in capsys.readouterr().err
    assert sorted(out.iterdir()) == before


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"ln_final.bias": None}, r"1 weights of CLIPModel are missing.*layer_norm\.bias"),
        ({"logit_bias": torch.zeros(())}, r"1 weights are not.*logit_bias"),
        ({"visual.conv1.weight": torch.zeros(3, 4)}, r"should have 4 dimensions.*\(3, 4\)"),
        ({"positional_embedding_res": torch.zeros(248, 64)}, r"\(77, 64\).*\(248, 64\)"),
        ({"visual.layer1.0.conv1.weight": torch.zeros(1)}, r"ResNet image tower .*use a ViT"),
        ({"token_embedding.weight": torch.zeros(901_629, 1)}, "901,629 tokens, CLIP's tokenizer"),
    ],
)
def test_rejects_weights_of_another_architecture(changed, said):
    state = open_clip_model(quick_gelu=False).state_dict() | changed
    with pytest.raises(InputError, match=said):
        convert_state_dict({k: v for k, v in state.items() if v is not None}, "gelu")


def test_asks_for_the_number_of_heads_if_the_width_is_ambiguous():
    theirs = open_clip_model(quick_gelu=False, width=160, head_width=80)
    for heads, said in ((None, "width 160.*--vision_heads"), (3, "3 heads do not divide")):
        with pytest.raises(InputError, match=said):
            convert_state_dict(theirs.state_dict(), "gelu", vision_heads=heads)
    assert max(differences(theirs, convert_state_dict(theirs.state_dict(), "gelu", 2))) < TOLERANCE


class Hidden:
    def __reduce__(self):
        return (Path.touch, (Path("ran"),))


def test_rejects_files_with_anything_but_tensors_and_runs_no_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {}, "payload": Hidden()}, "code.pt")
    torch.jit.script(torch.nn.Linear(2, 2)).save("program.pt")
    for name in ("text.pt", "text.safetensors"):
        Path(name).write_text("a page")
    torch.save({"optimizer": {"lr": 1.0}, "w": torch.zeros(1)}, "training.pt")
    for name, said in {
        "code.pt": "may run code",
        "program.pt": "TorchScript program",
        "text.pt": "is damaged",
        "text.safetensors": r"text\.safetensors",
        "training.pt": "other objects than tensors: optimizer",
        "absent.pt": r"no weight file absent\.pt",
    }.items():
        with pytest.raises(InputError, match=said):
            read_state_dict(name)
    assert not Path("ran").exists()
