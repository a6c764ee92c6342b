"""From what files hold to what tasks use: RGB bytes for images, one value per pixel for masks."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mml_ray.errors import BrokenSampleError

Pixels = NDArray[Any]


def to_rgb8(array: Pixels, path: str) -> Pixels:
    """``uint8 [H, W, 3]`` from gray, gray + alpha, RGB or RGBA of 8 or 16 bit, or of floats in [0, 1]; alpha is dropped.

    16-bit values keep their upper byte, as OpenCV does.
    """
    if array.dtype == np.uint8:  # nearly all
        pass
    elif array.dtype == np.uint16:
        array = (array >> 8).astype(np.uint8)
    elif array.dtype == np.bool_:
        array = array.astype(np.uint8) * np.uint8(255)
    elif np.issubdtype(array.dtype, np.floating):
        if array.size and not (float(array.min()) >= 0.0 and float(array.max()) <= 1.0):
            raise BrokenSampleError(f"The image {path} holds floats outside [0, 1]; store uint8, uint16 or floats in [0, 1].")
        array = np.rint(array * 255.0).astype(np.uint8)
    else:
        raise BrokenSampleError(f"The image {path} holds {array.dtype}; store uint8, uint16 or floats in [0, 1].")
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 2, 3, 4) or 0 in array.shape:
        raise BrokenSampleError(f"The image {path} has the shape {array.shape}; expected is [height, width(, 1 to 4)].")
    if array.shape[2] <= 2:
        return np.ascontiguousarray(np.repeat(array[:, :, :1], 3, axis=2))
    return np.ascontiguousarray(array[:, :, :3])


def to_single_channel(mask: Pixels, path: str) -> Pixels:
    """``uint8`` or ``uint16`` ``[H, W]``, values unchanged; of several channels only equal ones are accepted, alpha is dropped."""
    if mask.ndim not in (2, 3) or 0 in mask.shape:
        raise BrokenSampleError(f"The mask {path} has the shape {mask.shape}; expected is [height, width(, channels)].")
    if mask.dtype == np.bool_:
        mask = mask.astype(np.uint8)
    elif mask.dtype.kind in "iu" and mask.dtype not in (np.uint8, np.uint16):  # arrays only: image files have none of these
        lowest, highest = int(mask.min()), int(mask.max())
        if lowest < 0 or highest >= 1 << 16:
            raise BrokenSampleError(f"The mask {path} holds values from {lowest} to {highest}; class indices are 0 to 65,535.")
        mask = mask.astype(np.uint8 if highest < 1 << 8 else np.uint16)
    elif mask.dtype.kind not in "iu":
        raise BrokenSampleError(f"The mask {path} holds {mask.dtype}; store one integer per pixel, the class index.")
    if mask.ndim == 2:
        return mask
    if mask.shape[2] <= 2 or bool((mask[:, :, :1] == mask[:, :, 1:3]).all()):
        return np.ascontiguousarray(mask[:, :, 0])
    raise BrokenSampleError(
        f"The mask {path} is a color image (shape {mask.shape}); a mask holds one class index per pixel. Convert it when the dataset "
        "is created: DSetCreator.transform_masks maps colors to classes."
    )
