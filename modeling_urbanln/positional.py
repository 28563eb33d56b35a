"""Stretching of text position embeddings."""

import torch
from torch.nn import functional as F

STRETCH_MODES = ("ipsi", "equation2", "midpoint", "resize")


def stretch_position_embeddings(
    position_embeddings: torch.Tensor,
    num_preserved: int = 20,
    ratio: int = 4,
    mode: str = "ipsi",
) -> torch.Tensor:
    """Stretch P position embeddings to `num_preserved + (P - num_preserved) * ratio`.

    Modes (e is the new position, lambda the ratio, n the number of preserved positions):

    - `"ipsi"` (information-preserved stretching interpolation): rows below n are kept; the others
      interpolate the source linearly at `q(e) = n + (e - n) / lambda` and extrapolate linearly
      beyond the last row. Equals the stretch of Long-CLIP
      (https://github.com/beichenzbc/Long-CLIP, `load_from_clip`).
    - `"equation2"`: equation (2) of the UrbanLN paper (arXiv 2511.07062) as printed,
      `q(e) = e / lambda` without offset, so that row n jumps back to source `n / lambda`.
    - `"midpoint"`: `"equation2"` with the fixed weight w = 0.5 that the paper states.
    - `"resize"`: all P rows are resized linearly, none is preserved (open_clip's
      `resize_text_pos_embed`).

    Args:
        position_embeddings: Float tensor of shape `(P, D)`.
        num_preserved: Number of initial rows to keep, 0 to P.
        ratio: Stretching factor of the other rows, an integer of at least 1.
        mode: One of `"ipsi"`, `"equation2"`, `"midpoint"`, `"resize"`.

    Returns:
        Tensor of shape `(num_preserved + (P - num_preserved) * ratio, D)`, same dtype and device.

    Raises:
        ValueError: If an argument has a wrong shape, dtype or value.
    """
    _check(position_embeddings, num_preserved, ratio, mode)
    half = position_embeddings.dtype.itemsize < 4
    source = position_embeddings.float() if half else position_embeddings
    num_positions = source.shape[0]
    length = num_preserved + (num_positions - num_preserved) * ratio
    if length == num_positions:
        return position_embeddings.clone()
    if mode == "resize":
        stretched = F.interpolate(source.T.unsqueeze(0), size=length, mode="linear")[0].T
        return stretched.to(position_embeddings.dtype)

    # integer arithmetic: a rounded coordinate could fall into the wrong interval
    target = torch.arange(num_preserved, length, device=source.device)
    offset = num_preserved if mode == "ipsi" else 0
    lower = offset + (target - offset) // ratio
    weight = ((target - offset) % ratio).to(source.dtype) / ratio
    if mode == "ipsi":
        # coordinates beyond the last row extrapolate its interval with a weight above 1
        beyond = lower == num_positions - 1
        lower, weight = (
            torch.where(beyond, lower - 1, lower),
            torch.where(beyond, weight + 1, weight),
        )
        upper = lower + 1
    else:
        # with few preserved rows the last coordinate lies past the table: clamp
        upper = torch.where(weight > 0, lower + 1, lower).clamp(max=num_positions - 1)
        weight = torch.full_like(weight, 0.5) if mode == "midpoint" else weight
    weight = weight.unsqueeze(1)
    interpolated = (1 - weight) * source[lower] + weight * source[upper]
    kept = position_embeddings[:num_preserved]
    return torch.cat([kept, interpolated.to(position_embeddings.dtype)])


def _check(position_embeddings: torch.Tensor, num_preserved: int, ratio: int, mode: str) -> None:
    if mode not in STRETCH_MODES:
        raise ValueError(f"`mode` must be one of {STRETCH_MODES}, got {mode!r}.")
    is_tensor = isinstance(position_embeddings, torch.Tensor)
    shape = tuple(position_embeddings.shape) if is_tensor else ()
    if len(shape) != 2 or shape[0] == 0:
        raise ValueError(
            "`position_embeddings` must be a tensor with at least one row, of shape (P, D), got "
            f"{f'shape {shape}' if is_tensor else type(position_embeddings).__name__}."
        )
    if not position_embeddings.is_floating_point():
        raise ValueError(
            f"`position_embeddings` must be floating point, got {position_embeddings.dtype}."
        )
    if type(num_preserved) is not int or not 0 <= num_preserved <= shape[0]:
        raise ValueError(
            f"`num_preserved` must be an integer from 0 to {shape[0]} (the number of rows), got "
            f"{num_preserved!r}."
        )
    if type(ratio) is not int or ratio < 1:
        raise ValueError(f"`ratio` must be an integer of at least 1, got {ratio!r}.")
    if shape[0] == 1 and num_preserved == 0 and ratio > 1 and mode == "ipsi":
        raise ValueError("A single row cannot be stretched by interpolation, got shape (1, D).")


__all__ = ["STRETCH_MODES", "stretch_position_embeddings"]
