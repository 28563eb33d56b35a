import json
from pathlib import Path

import pytest
import torch
from open_clip import CLIPTextCfg, CLIPVisionCfg
from open_clip.model import CLIP
from PIL import Image
from safetensors.torch import save_file
from transformers import AutoModel, AutoProcessor, CLIPConfig, CLIPModel

from modeling_urbanln import UrbanLNModel, UrbanLNProcessor
from pipelines.common.encoders.transformers_models import load_model_encoder
from pipelines.common.errors import InputError
from pipelines.release.convert import convert_checkpoint, convert_state_dict, image_processor
from pipelines.release.state_dicts import read_state_dict
from tests.processes import run_python

TOLERANCE, WRONG = 1e-4, 1e-3
END = 49407
ACTIVATIONS = ("gelu", "quick_gelu")


def open_clip_model(quick_gelu: bool, context_length: int = 77, **vision) -> CLIP:
    """Real architecture at small width, with all weights random, including biases."""
    torch.manual_seed(0)
    fields = {"layers": 2, "width": 128, "patch_size": 8, "image_size": 32}
    model = CLIP(
        embed_dim=48,
        vision_cfg=CLIPVisionCfg(**{**fields, **vision}),
        text_cfg=CLIPTextCfg(context_length=context_length, width=64, heads=1, layers=3),
        quick_gelu=quick_gelu,
    )
    return randomise(model).eval()


@torch.no_grad()
def randomise(model):
    for name, parameter in sorted(model.named_parameters()):
        if name != "logit_scale":
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def inputs(image_size: int = 32, length: int = 77) -> tuple[torch.Tensor, torch.Tensor]:
    """Images, and texts of different lengths, padded with 0 as in open_clip."""
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(3, 3, image_size, image_size, generator=generator)
    ids = torch.zeros(3, length, dtype=torch.long)
    for row, end in enumerate((5, 40, length - 1)):
        ids[row, 0], ids[row, end] = 49406, END
        ids[row, 1:end] = torch.randint(1, 49000, (end - 1,), generator=generator)
    return pixels, ids


@torch.no_grad()
def differences(theirs, ours, pixels, ids) -> dict[str, float]:
    """Largest absolute difference of features and logits."""
    ids_padded_with_end = torch.where(ids == 0, END, ids)
    image = ours.get_image_features(pixel_values=pixels).pooler_output
    text = ours.get_text_features(input_ids=ids_padded_with_end).pooler_output
    logits = ours(pixel_values=pixels, input_ids=ids_padded_with_end).logits_per_image
    return {
        "image": (theirs.encode_image(pixels) - image).abs().max().item(),
        "text": (theirs.encode_text(ids) - text).abs().max().item(),
        "logits": (theirs.get_logits(pixels, ids)[0] - logits).abs().max().item(),
    }


@pytest.mark.parametrize("hidden_act", ACTIVATIONS)
def test_converted_model_equals_open_clip_and_the_other_activation_does_not(hidden_act):
    theirs = open_clip_model(quick_gelu=hidden_act == "quick_gelu")
    other = next(name for name in ACTIVATIONS if name != hidden_act)

    right = differences(theirs, convert_state_dict(theirs.state_dict(), hidden_act), *inputs())
    wrong = differences(theirs, convert_state_dict(theirs.state_dict(), other), *inputs())

    assert max(right.values()) < TOLERANCE
    assert min(wrong.values()) > WRONG


@pytest.mark.slow
def test_converted_vit_b_32_equals_open_clip(tmp_path):
    import open_clip

    theirs = randomise(open_clip.create_model("ViT-B-32")).eval()
    torch.save({"state_dict": theirs.state_dict()}, tmp_path / "RemoteCLIP-ViT-B-32.pt")

    convert_checkpoint(
        tmp_path / "RemoteCLIP-ViT-B-32.pt", tmp_path / "converted", hidden_act="gelu"
    )
    ours = CLIPModel.from_pretrained(tmp_path / "converted").eval()

    pixels, ids = inputs(image_size=224)
    scale = theirs.encode_image(pixels).abs().max().item()
    found = differences(theirs, ours, pixels, ids)
    assert found["logits"] < TOLERANCE
    # the features are far larger than 1, so the error is relative to them
    assert max(found["image"], found["text"]) < TOLERANCE * max(1.0, scale)
    wrong = convert_state_dict(theirs.state_dict(), "quick_gelu")
    assert min(differences(theirs, wrong, pixels, ids).values()) > WRONG


def test_long_clip_takes_the_first_20_positions_from_one_table_and_the_rest_from_the_other(
    tmp_path,
):
    theirs = open_clip_model(quick_gelu=True, context_length=248)
    state = theirs.state_dict()
    kept = state["positional_embedding"].clone()
    # rows of the two tables that the model does not use
    state["positional_embedding_res"] = torch.cat([torch.full((20, 64), 9.0), kept[20:]])
    state["positional_embedding"] = torch.cat([kept[:20], torch.full((228, 64), 9.0)])

    torch.save(state, tmp_path / "longclip-B.pt")

    converted = convert_checkpoint(
        tmp_path / "longclip-B.pt", tmp_path / "out", hidden_act="quick_gelu"
    )
    loaded = AutoModel.from_pretrained(tmp_path / "out").eval()
    processor = AutoProcessor.from_pretrained(tmp_path / "out")

    for ours in (converted, loaded):
        assert isinstance(ours, UrbanLNModel)
        assert max(differences(theirs, ours, *inputs(length=248)).values()) < TOLERANCE
    assert loaded.config.text_config.max_position_embeddings == 248
    assert isinstance(processor, UrbanLNProcessor)
    assert len(processor(text="a road " * 200)["input_ids"]) == 248


def test_long_clip_with_tables_of_two_lengths_is_refused():
    state = open_clip_model(quick_gelu=True).state_dict()
    state["positional_embedding_res"] = torch.zeros(248, 64)
    with pytest.raises(InputError, match=r"\(77, 64\).*\(248, 64\)"):
        convert_state_dict(state, "quick_gelu")


def save_fg_clip(folder: Path, **changes: torch.Tensor | None) -> CLIPModel:
    """Save FG-CLIP's folder; return the CLIP that its code uses for long texts.

    `changes` replace weights by suffix of their name; None removes them.
    """
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
    table = state[f"{name}.weight"]
    unused = torch.full((248, 32), 9.0)
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
    for end, value in changes.items():
        key = next(key for key in state if key.removesuffix(".weight").endswith(end))
        state |= {key: value}
    folder.mkdir()
    kept = {key: value for key, value in state.items() if value is not None}
    save_file(kept, folder / "model.safetensors")
    fields = config.to_dict() | {"architectures": ["FGCLIPModel"]}
    fields["text_config"] |= {"max_position_embeddings": 77, "eos_token_id": 2}
    fields["auto_map"] = {"AutoModelForCausalLM": "modeling_fgclip.FGCLIPModel"}
    (folder / "config.json").write_text(json.dumps(fields))
    image_processor(32).save_pretrained(folder)
    return clip


def test_fg_clip_becomes_its_model_of_long_texts(tmp_path, caplog):
    clip = save_fg_clip(tmp_path / "fg")
    converted = convert_checkpoint(tmp_path / "fg", tmp_path / "out")
    loaded = AutoModel.from_pretrained(tmp_path / "out").eval()

    pixels, ids = inputs(length=248)
    batch = {"pixel_values": pixels, "input_ids": torch.where(ids == 0, END, ids)}
    with torch.no_grad():
        expected = clip(**batch)
        for model in (converted, loaded):
            assert isinstance(model, UrbanLNModel)
            found = model(**batch)
            for name in ("image_embeds", "text_embeds", "logits_per_image"):
                torch.testing.assert_close(getattr(found, name), getattr(expected, name))
    assert "ignoring" in caplog.text
    assert "logit_scale_finegraind and logit_scale_hardneg" in caplog.text
    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    assert len(processor(text="a road " * 200)["input_ids"]) == 248
    # the published folder gives the same image embeddings without its code
    picture = Image.new("RGB", (50, 40), (200, 100, 0))
    vectors = []
    for folder in ("fg", "out"):
        encoder = load_model_encoder(str(tmp_path / folder))
        vectors.append(torch.tensor(encoder.encode(encoder.prepare(picture)[None])))
    torch.testing.assert_close(*vectors)


def test_fg_clip_that_cannot_be_converted_is_refused(tmp_path):
    fg, out = tmp_path / "fg", tmp_path / "out"
    save_fg_clip(fg)
    with pytest.raises(InputError, match=r"omit --hidden_act"):
        convert_checkpoint(fg, out, hidden_act="gelu")
    (fg / "config.json").unlink()
    with pytest.raises(InputError, match=r"config\.json of these weights cannot be read"):
        convert_checkpoint(fg / "model.safetensors", out)
    (fg / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"no model\.safetensors or pytorch_model\.bin"):
        convert_checkpoint(fg, out)
    save_fg_clip(tmp_path / "one_table", position_embedding_ori=None)
    with pytest.raises(InputError, match=r"no text_model\..*position_embedding_ori\.weight"):
        convert_checkpoint(tmp_path / "one_table", out)
    save_fg_clip(tmp_path / "short", position_embedding_res=torch.zeros(77, 32))
    with pytest.raises(InputError, match=r"\(248, 32\).*\(77, 32\)"):
        convert_checkpoint(tmp_path / "short", out)
    save_file({"text_model.head.weight": torch.zeros(2, 2)}, tmp_path / "fg2.safetensors")
    with pytest.raises(InputError, match=r"like FG-CLIP 2.*embed --encoder"):
        convert_checkpoint(tmp_path / "fg2.safetensors", out)


@pytest.mark.parametrize(
    ("suffix", "wrap"),
    [
        (".pt", lambda state: state),
        (".bin", lambda state: {"epoch": 3, "state_dict": state}),
        (".pt", lambda state: {"state_dict": {f"module.{k}": v for k, v in state.items()}}),
        (".safetensors", lambda state: {f"module.{k}": v for k, v in state.items()}),
    ],
)
def test_folder_loads_like_any_clip_whatever_the_file(tmp_path, suffix, wrap):
    theirs = open_clip_model(quick_gelu=False)
    content, path = wrap(theirs.half().state_dict()), tmp_path / f"weights{suffix}"
    save_file(content, path) if suffix == ".safetensors" else torch.save(content, path)

    convert_checkpoint(path, tmp_path / "out", hidden_act="gelu")

    ours = AutoModel.from_pretrained(tmp_path / "out").eval()
    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    assert max(differences(theirs.float(), ours, *inputs()).values()) < TOLERANCE
    assert ours.config.vision_config.hidden_act == ours.config.text_config.hidden_act == "gelu"
    batch = processor(
        images=Image.new("RGB", (60, 40)), text="a road " * 90, truncation=True, return_tensors="pt"
    )
    assert batch["pixel_values"].shape == (1, 3, 32, 32)
    assert batch["input_ids"].shape == (1, 77)
    assert batch["input_ids"][0, -1] == ours.config.text_config.eos_token_id == END
    assert not list(tmp_path.glob(".out*"))


def test_folder_embeds_as_open_clip_preprocesses_and_encodes(tmp_path):
    from open_clip import image_transform

    theirs = open_clip_model(quick_gelu=False)
    torch.save(theirs.state_dict(), tmp_path / "w.pt")
    convert_checkpoint(tmp_path / "w.pt", tmp_path / "out", hidden_act="gelu")
    pixels = torch.randint(0, 256, (40, 56, 3), generator=torch.Generator().manual_seed(0))
    picture = Image.fromarray(pixels.to(torch.uint8).numpy())

    encoder = load_model_encoder(str(tmp_path / "out"))
    ours = encoder.encode(encoder.prepare(picture)[None])[0]

    with torch.no_grad():
        expected = theirs.encode_image(image_transform(32, is_train=False)(picture)[None])[0]
    # the libraries round differently when resizing
    assert torch.nn.functional.cosine_similarity(torch.tensor(ours), expected, dim=0) > 0.999


def test_missing_and_unexpected_weights_are_listed():
    state = open_clip_model(quick_gelu=False).state_dict()
    incomplete = {
        k: v for k, v in state.items() if k not in ("ln_final.bias", "visual.ln_pre.bias")
    }
    with pytest.raises(InputError, match=r"2 weights of CLIPModel are missing.*layer_norm\.bias"):
        convert_state_dict(incomplete, "gelu")
    with pytest.raises(InputError, match=r"2 weights are not.*logit_bias, visual\.attn_pool"):
        convert_state_dict(
            state | {"logit_bias": torch.zeros(()), "visual.attn_pool.query": torch.zeros(2, 2)},
            "gelu",
        )
    with pytest.raises(InputError, match=r"conv1\.weight should have 4 dimensions.*\(3, 4\)"):
        convert_state_dict(state | {"visual.conv1.weight": torch.zeros(3, 4)}, "gelu")
    with pytest.raises(InputError, match=r"not a complete CLIP.*visual\.proj missing"):
        convert_state_dict({k: v for k, v in state.items() if k != "visual.proj"}, "gelu")


def test_a_block_of_another_width_is_an_error():
    state = open_clip_model(quick_gelu=False).state_dict()
    key = "transformer.resblocks.1.mlp.c_fc.weight"
    with pytest.raises(InputError, match="are inconsistent"):
        convert_state_dict(state | {key: state[key][:-1]}, "gelu")


def test_resnet_tower_is_refused():
    state = open_clip_model(False, layers=(1, 1, 1, 1), width=8, image_size=64).state_dict()
    with pytest.raises(InputError, match=r"ResNet image tower .*use a ViT"):
        convert_state_dict(state, "quick_gelu")


def test_number_of_heads_is_asked_for_where_the_width_does_not_tell():
    theirs = open_clip_model(quick_gelu=False, width=160, head_width=80)
    with pytest.raises(InputError, match=r"vision tower has width 160.*--vision_heads"):
        convert_state_dict(theirs.state_dict(), "gelu")
    with pytest.raises(InputError, match="3 heads do not divide the vision tower's width of 160"):
        convert_state_dict(theirs.state_dict(), "gelu", vision_heads=3)
    with pytest.raises(InputError, match="-2 heads do not divide"):
        convert_state_dict(theirs.state_dict(), "gelu", vision_heads=-2)
    right = convert_state_dict(theirs.state_dict(), "gelu", vision_heads=2)
    wrong = convert_state_dict(theirs.state_dict(), "gelu", vision_heads=4)
    assert differences(theirs, right, *inputs())["image"] < TOLERANCE
    assert differences(theirs, wrong, *inputs())["image"] > WRONG


class Hidden:
    def __reduce__(self):
        return (Path.touch, (Path("ran"),))


def test_files_that_are_no_plain_tensors_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {}, "payload": Hidden()}, "code.pt")
    with pytest.raises(InputError, match="may run code"):
        read_state_dict("code.pt")
    assert not Path("ran").exists()

    torch.jit.script(torch.nn.Linear(2, 2)).save("program.pt")
    with pytest.raises(InputError, match="TorchScript program"):
        read_state_dict("program.pt")

    Path("text.pt").write_text("not found")
    Path("text.safetensors").write_text("not found")
    for name in ("text.pt", "text.safetensors"):
        with pytest.raises(InputError, match=name):
            read_state_dict(name)

    torch.save([torch.zeros(1)], "list.pt")
    with pytest.raises(InputError, match="contains a list"):
        read_state_dict("list.pt")
    torch.save({"optimizer": {"lr": 1.0}, "w": torch.zeros(1)}, "training.pt")
    with pytest.raises(InputError, match="other objects than tensors: optimizer"):
        read_state_dict("training.pt")
    with pytest.raises(InputError, match=r"no weight file absent\.pt"):
        read_state_dict("absent.pt")


def test_a_model_of_another_tokenizer_is_refused():
    state = open_clip_model(quick_gelu=False).state_dict()
    state["token_embedding.weight"] = torch.zeros(901_629, 1).expand(-1, 64)
    with pytest.raises(InputError, match="901,629 tokens, CLIP's tokenizer 49,408"):
        convert_state_dict(state, "gelu")


def test_folder_in_use_and_a_strange_tokenizer_are_refused_and_nothing_is_left(tmp_path):
    torch.save(open_clip_model(quick_gelu=False).state_dict(), tmp_path / "w.pt")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="is not empty"):
        convert_checkpoint(tmp_path / "w.pt", tmp_path / "full", hidden_act="gelu")
    with pytest.raises(InputError, match="No usable tokenizer"):
        convert_checkpoint(
            tmp_path / "w.pt", tmp_path / "out", hidden_act="gelu", tokenizer=str(tmp_path / "no")
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full", "w.pt"]


def test_command_line_converts_and_asks_for_the_activation(tmp_path):
    torch.save(open_clip_model(quick_gelu=False).state_dict(), tmp_path / "w.pt")
    command = ["-m", "pipelines.release", "convert", tmp_path / "w.pt"]
    command += ["--output_dir", tmp_path / "out"]

    unsaid = run_python(*command)
    said = run_python(*command, "--hidden_act", "gelu")
    again = run_python(*command, "--hidden_act", "gelu")

    assert unsaid.returncode == 2
    assert "--hidden_act" in unsaid.stderr
    assert said.returncode == 0, said.stderr
    assert "images of 32 pixels in patches of 8, texts of up to 77 tokens" in said.stdout
    assert again.returncode == 2
    assert again.stderr.startswith("error: ")
    assert "is not empty" in again.stderr
