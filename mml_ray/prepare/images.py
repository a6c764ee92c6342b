"""What creators of datasets import for images: the functions of :mod:`mml_ray.imaging`."""

from mml_ray.imaging import read_image, read_mask, write_png

__all__ = ["read_image", "read_mask", "write_png"]
