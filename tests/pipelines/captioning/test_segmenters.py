import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    Sam2Config,
    Sam2ImageProcessor,
    Sam2Model,
    SamConfig,
    SamImageProcessor,
    SamModel,
)

from pipelines.captioning.segment import salient_boxes
from pipelines.captioning.segmenters import FelzenszwalbSegmenter, MaskGenerationSegmenter

# thresholds that keep nearly all masks of random weights
ANY_MASK = {"points_per_crop": 4, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0}
SIDE = 64
PROMPTS = {"hidden_size": 32, "image_size": SIDE, "patch_size": 16, "mask_input_channels": 8}
DECODER = {"hidden_size": 32, "mlp_dim": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
DECODER |= {"iou_head_depth": 2, "iou_head_hidden_dim": 32}


def blocks_and_disc(width=96, height=64):
    """Blocks of uniform colour, and a disc."""
    rng = np.random.default_rng(0)
    blocks = np.kron(rng.integers(0, 255, (2, 3, 3)), np.ones((height // 2, width // 3, 1)))
    rows, columns = np.indices((height, width))
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: blocks.shape[0], : blocks.shape[1]] = blocks
    pixels[np.hypot(rows - height / 2, columns - width / 2) < height / 5] = (250, 10, 10)
    return Image.fromarray(pixels)


def save_sam(folder):
    vision = {"hidden_size": 32, "output_channels": 32, "num_hidden_layers": 2, "mlp_dim": 64}
    vision |= {"num_attention_heads": 2, "image_size": SIDE, "patch_size": 16, "num_pos_feats": 16}
    vision |= {"global_attn_indexes": [1], "window_size": 2}
    config = SamConfig(
        vision_config=vision, prompt_encoder_config=PROMPTS, mask_decoder_config=DECODER
    )
    torch.manual_seed(0)
    SamModel(config).save_pretrained(folder)
    SamImageProcessor(
        size={"longest_edge": SIDE},
        pad_size={"height": SIDE, "width": SIDE},
        mask_size={"longest_edge": 16},
        mask_pad_size={"height": 16, "width": 16},
    ).save_pretrained(folder)


def save_sam2(folder):
    backbone = {"model_type": "sam2_hiera_det_model", "hidden_size": 8, "image_size": [SIDE, SIDE]}
    backbone |= {"blocks_per_stage": [1, 1, 2, 1], "embed_dim_per_stage": [8, 16, 32, 64]}
    backbone |= {"num_attention_heads_per_stage": [1] * 4, "window_size_per_stage": [4, 2, 2, 2]}
    backbone |= {"global_attention_blocks": [3]}
    backbone |= {"window_positional_embedding_background_size": [2, 2]}
    vision = {"model_type": "sam2_vision_model", "backbone_config": backbone}
    vision |= {"backbone_channel_list": [64, 32, 16, 8], "fpn_hidden_size": 32}
    vision |= {"backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]]}
    config = Sam2Config(
        vision_config=vision, prompt_encoder_config=PROMPTS, mask_decoder_config=DECODER
    )
    torch.manual_seed(0)
    Sam2Model(config).save_pretrained(folder)
    Sam2ImageProcessor(
        size={"height": SIDE, "width": SIDE}, mask_size={"height": 16, "width": 16}
    ).save_pretrained(folder)


def check_masks(masks, image):
    assert masks
    for mask in masks:
        assert mask.shape == (image.height, image.width)
        assert mask.dtype == np.bool_
        assert mask.any()


def test_felzenszwalb_finds_blocks_of_uniform_colour():
    image = blocks_and_disc(960, 640)
    masks = FelzenszwalbSegmenter().masks(image)
    check_masks(masks, image)
    # every pixel is in one region
    assert (np.sum(masks, axis=0) == 1).all()
    areas = [np.count_nonzero(mask) for mask in masks]
    assert areas == sorted(areas, reverse=True)
    disc = np.asarray(image)[:, :, 0] == 250
    best = max(masks, key=lambda mask: np.count_nonzero(mask & disc))
    assert np.count_nonzero(best & disc) / np.count_nonzero(best | disc) > 0.85
    assert len(salient_boxes(masks, (640, 960))) == 7


@pytest.mark.parametrize("size", [(8, 8), (1, 40), (2000, 100)])
def test_felzenszwalb_masks_have_the_size_of_the_image(size):
    image = Image.effect_noise(size, 90).convert("RGB")
    check_masks(FelzenszwalbSegmenter().masks(image), image)


@pytest.mark.parametrize("save", [save_sam, save_sam2])
def test_mask_generation_covers_an_oblong_image_with_points(tmp_path, monkeypatch, save):
    save(tmp_path / "model")
    options = {**ANY_MASK, "crops_n_layers": 0}
    segmenter = MaskGenerationSegmenter(str(tmp_path / "model"), **options)
    seen = {}
    model = segmenter._pipeline.model
    forward = model.forward

    def spy(*args, **inputs):
        seen["points"] = inputs["input_points"].reshape(-1, 2)
        return forward(*args, **inputs)

    monkeypatch.setattr(model, "forward", spy)
    image = blocks_and_disc(128, 64)
    check_masks(segmenter.masks(image), image)
    # SAM keeps the aspect ratio: the image fills the upper half of the square
    height = SIDE if save is save_sam2 else SIDE // 2
    lowest, highest = seen["points"].min(0).values, seen["points"].max(0).values
    assert torch.allclose(lowest, torch.tensor([SIDE, height]) / 8.0)
    assert torch.allclose(highest, torch.tensor([SIDE, height]) * 7 / 8.0)
    strict = MaskGenerationSegmenter(str(tmp_path / "model"), points_per_crop=4, pred_iou_thresh=9)
    assert strict.masks(image) == []
