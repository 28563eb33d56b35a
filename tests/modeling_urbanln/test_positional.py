import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from modeling_urbanln import stretch_position_embeddings


def table(rows: int, width: int = 5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(rows)
    return torch.randn(rows, width, generator=generator)


def long_clip_row(source: np.ndarray, e: int, keep: int, ratio: int) -> np.ndarray:
    """Index formula of Long-CLIP's `load_from_clip`, for one row."""
    if e < keep:
        return source[e]
    i, j = divmod(e - keep, ratio)
    if keep + i < len(source) - 1:
        return (1 - j / ratio) * source[keep + i] + j / ratio * source[keep + i + 1]
    return source[-1] + j / ratio * (source[-1] - source[-2])


@pytest.mark.parametrize(
    ("rows", "keep", "ratio"),
    [(77, 20, 4), (64, 20, 4), (77, 0, 3), (40, 39, 5)],
)
def test_ipsi_equals_long_clip_on_every_row(rows, keep, ratio):
    source = table(rows)
    stretched = stretch_position_embeddings(source, keep, ratio)
    expected = [
        long_clip_row(source.double().numpy(), e, keep, ratio)
        for e in range(keep + (rows - keep) * ratio)
    ]
    np.testing.assert_allclose(stretched.double().numpy(), expected, atol=1e-6)


def test_ipsi_worked_by_hand_for_77_rows():
    source = torch.arange(77.0).unsqueeze(1)  # row e holds e, so a stretched row shows q(e)
    stretched = stretch_position_embeddings(source)[:, 0]
    assert stretched.shape == (248,)
    assert stretched[:21].tolist() == list(range(21))
    by_hand = {21: 20.25, 22: 20.5, 23: 20.75, 24: 21.0, 100: 40.0, 244: 76.0, 247: 76.75}
    assert {e: stretched[e].item() for e in by_hand} == by_hand
    assert (stretched.diff() > 0).all()


def test_equation2_is_the_printed_formula():
    source = table(77).double()
    stretched = stretch_position_embeddings(source.float(), mode="equation2").double()
    for e in range(20, 248):
        low, high = int(np.floor(e / 4)), int(np.ceil(e / 4))
        w = e / 4 - low
        torch.testing.assert_close(
            stretched[e], (1 - w) * source[low] + w * source[high], atol=1e-6, rtol=0
        )
    torch.testing.assert_close(stretched[20], source[5], atol=1e-6, rtol=0)


def test_midpoint_leaves_119_distinct_rows():
    stretched = stretch_position_embeddings(table(77), mode="midpoint")
    assert len(torch.unique(stretched, dim=0)) == 119
    assert len(torch.unique(stretch_position_embeddings(table(77)), dim=0)) == 248


def test_resize_equals_open_clip():
    from open_clip.model import resize_text_pos_embed

    class Text:
        positional_embedding = torch.zeros(248, 5)

    state = {"positional_embedding": table(77)}
    resize_text_pos_embed(state, Text(), interpolation="linear", antialias=False)
    stretched = stretch_position_embeddings(table(77), mode="resize")
    torch.testing.assert_close(stretched, state["positional_embedding"])


@given(
    rows=st.integers(2, 60),
    ratio=st.integers(1, 6),
    mode=st.sampled_from(["ipsi", "equation2", "midpoint", "resize"]),
    data=st.data(),
)
def test_preserves_rows_shape_and_source(rows, ratio, mode, data):
    keep = data.draw(st.integers(0, rows))
    source = table(rows)
    before = source.clone()
    stretched = stretch_position_embeddings(source, keep, ratio, mode)
    assert stretched.shape == (keep + (rows - keep) * ratio, 5)
    assert torch.isfinite(stretched).all()
    assert torch.equal(source, before)
    if mode != "resize":
        assert torch.equal(stretched[:keep], source[:keep])
    if ratio == 1:
        torch.testing.assert_close(stretched, source)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_dtype_is_kept(dtype):
    stretched = stretch_position_embeddings(table(77).to(dtype))
    assert stretched.dtype == dtype
    torch.testing.assert_close(
        stretched.float(), stretch_position_embeddings(table(77)), atol=0.02, rtol=0.02
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(3),), r"shape \(P, D\), got shape \(3,\)"),
        (([[1.0]],), "got list"),
        ((torch.zeros(4, 2, dtype=torch.int64),), "floating point, got torch.int64"),
        ((torch.zeros(0, 2), 0), "at least one row"),
        ((torch.zeros(4, 2), 5), "from 0 to 4 .*got 5"),
        ((torch.zeros(4, 2), True), "got True"),
        ((torch.zeros(4, 2), 2, 0), "`ratio`.*got 0"),
        ((torch.zeros(4, 2), 2, 2, "cubic"), "`mode`.*'cubic'"),
        ((torch.zeros(1, 2), 0, 2), "single row cannot be stretched"),
    ],
)
def test_rejects_invalid_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        stretch_position_embeddings(*arguments)
