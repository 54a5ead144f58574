"""Random distortions of images.

Letters in the shapes: B items of a batch, S images of each, C channels of H x W pixels.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

# Largest distortions of the random affine map; each is drawn uniformly around "none".
_TAN_HALF_ROTATION = 0.1  # 2 * atan(0.1) = 11.4 degrees either way
_SCALE = 0.15  # each axis by itself, 0.85 to 1.15
_SHEAR = 0.15
_SHIFT = 0.15  # in half image widths: 2.1 pixels of 28, 6.3 of 84
NUMBERS_PER_IMAGE = 6


def distorted(pixels: torch.Tensor, numbers: np.ndarray) -> torch.Tensor:
    """Each image under a random affine map, bilinear: (B, S, C, H, W) -> the same, in [0, 1].

    Numbers (B, S * 6) in [0, 1) decide the map. What it brings in from outside is paper (0) for grey
    images; colour images have no paper, and are mirrored at their edges.

    Elementwise with exactly rounded operations (no sine, no exponential, no matrix product), so that
    an image does not depend on the batch it is in.
    """
    *_, channels, height, width = pixels.shape
    flat = pixels.reshape(-1, channels, height, width)
    signed = torch.from_numpy(2 * numbers.reshape(len(flat), NUMBERS_PER_IMAGE, 1, 1) - 1).float()
    tangent, scale_x, scale_y, shear, shift_x, shift_y = signed.unbind(1)  # each (B * S, 1, 1)
    tangent = _TAN_HALF_ROTATION * tangent
    norm = 1 + tangent * tangent
    cosine, sine = (1 - tangent * tangent) / norm, 2 * tangent / norm
    # From an output position to the input position it shows; both run from -1 to 1.
    x = ((torch.arange(width) * 2 + 1) / width - 1).view(1, 1, width)
    y = ((torch.arange(height) * 2 + 1) / height - 1).view(1, height, 1)
    x, y = cosine * x - sine * y, sine * x + cosine * y
    x = x + _SHEAR * shear * y
    x = x / (1 + _SCALE * scale_x) + _SHIFT * shift_x
    y = y / (1 + _SCALE * scale_y) + _SHIFT * shift_y
    grid = torch.stack([x, y], dim=-1)  # (B * S, H, W, 2)
    outside = "zeros" if channels == 1 else "reflection"
    moved = F.grid_sample(flat, grid, mode="bilinear", padding_mode=outside, align_corners=False)
    return moved.clamp_(0, 1).view(pixels.shape)  # bilinear weights may sum to 1 + one rounding
