"""Reading images and masks from files: one reader for creation, checks and loaders. Imports no torch.

Whatever reads a file of a task calls :func:`read_image` or :func:`read_mask`, so all of them accept the same suffixes, apply the same
rules and see the same pixels. A file format is one :class:`ImageBackend`, registered as kind ``image_backend``.
"""

from mml_ray.imaging.backends import ImageBackend
from mml_ray.imaging.pixels import Pixels
from mml_ray.imaging.reader import image_suffixes, is_image, read_image, read_mask, refuse_file
from mml_ray.imaging.writer import write_png

__all__ = ["ImageBackend", "Pixels", "image_suffixes", "is_image", "read_image", "read_mask", "refuse_file", "write_png"]
