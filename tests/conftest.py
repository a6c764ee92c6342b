"""What all tests share: a clean environment, folders of their own, and torchvision beside a torch without CUDA."""

from __future__ import annotations

import importlib.abc
import importlib.metadata
import importlib.util
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

#: variables that a user's machine may set and that would change what is tested
FOREIGN = ("MML_", "RAY_ADDRESS", "RAY_AUTH_", "KAGGLE_", "NO_COLOR", "COLUMNS")


def pytest_configure(config: pytest.Config) -> None:
    """Before anything is imported: no settings of the user."""
    for name in [name for name in os.environ if name.startswith(FOREIGN) and name != "MML_RAY_TEST_DATA"]:
        del os.environ[name]
    # a shell lets what runs in the background ignore Ctrl-C, and the processes of the tests would inherit that
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if _torchvision_is_for_cuda():
        sys.meta_path.insert(0, _DeclareOperators())


@pytest.fixture
def extras(monkeypatch: pytest.MonkeyPatch) -> None:
    """timm, smp and torchvision can be imported: from the environment, or from the folder that ``make`` puts them into."""
    folder = Path(sys.prefix) / "extras"
    if folder.is_dir():
        monkeypatch.syspath_prepend(str(folder))
        if "torchvision" not in sys.modules and _torchvision_is_for_cuda():
            monkeypatch.setattr(sys, "meta_path", [_DeclareOperators(), *sys.meta_path])


@pytest.fixture
def torchvision(extras: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision can be imported, and decodes images: Pillow does it where the compiled part is not for this torch."""
    vision = pytest.importorskip("torchvision", reason="the extra 'timm' is not installed")
    try:
        vision.io.decode_image(_torch_bytes(b"no image"))
    except RuntimeError as error:
        if "image extension" in str(error):
            monkeypatch.setattr(vision.io, "decode_image", _decode_with_pillow)


@pytest.fixture(autouse=True)
def _own_environment() -> Iterator[None]:
    """Variables that a test sets (an env file does) are gone after it."""
    before = dict(os.environ)
    yield
    for name in set(os.environ) - set(before):
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture(autouse=True)
def _nothing_goes_on() -> Iterator[None]:
    """Runs that a test started in the background end with it, also where it failed."""
    yield
    if harness := sys.modules.get("tests.integration.harness"):
        harness.end_what_goes_on()


@pytest.fixture
def data_root(tmp_path: Path) -> Path:
    """An empty data root."""
    path = tmp_path / "data"
    path.mkdir()
    return path


@pytest.fixture
def results_root(tmp_path: Path) -> Path:
    """An empty results root."""
    path = tmp_path / "results"
    path.mkdir()
    return path


# -- Ray ---------------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="session")
def shared_ray() -> Iterator[Any]:
    """The one local Ray of the test session: two CPUs and two pretended GPUs."""
    from mml_ray.driver.ray.cluster import RayOptions, RaySession

    session = RaySession(RayOptions(num_cpus=2, num_gpus=2))
    yield session
    session.close()


# -- torchvision beside a torch without CUDA ---------------------------------------------------------------------------
# The registry's torchvision is built for CUDA. Beside a CPU-only torch its compiled part does not load, and its import ends with
# "operator torchvision::nms does not exist". Two declared schemas are enough for what timm and smp need of it.
class _DeclareOperators(importlib.abc.MetaPathFinder):
    """Declares the operators just before torchvision is imported; finds nothing itself."""

    library: Any = None

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: Any = None) -> None:
        if fullname == "torchvision" and type(self).library is None:
            import torch

            library = torch.library.Library("torchvision", "DEF")
            for name in ("nms", "qnms"):
                library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            type(self).library = library  # the schemas live as long as this object


def _torch_bytes(content: bytes) -> Any:
    """The tensor that torchvision's decoder takes."""
    import torch

    return torch.frombuffer(bytearray(content), dtype=torch.uint8)


def _decode_with_pillow(data: Any, mode: Any, *, apply_exif_orientation: bool = False) -> Any:
    """``torchvision.io.decode_image`` as its documentation has it: 16 bits stay 16 bits, what cannot be read is a RuntimeError."""
    import io

    import numpy as np
    import torch
    from PIL import Image, ImageOps

    assert mode.name == "RGB"
    try:
        image: Any = Image.open(io.BytesIO(data.numpy().tobytes()))
        image.load()
    except (OSError, SyntaxError) as error:
        raise RuntimeError(str(error)) from error
    image = ImageOps.exif_transpose(image) if apply_exif_orientation else image
    is_wide = image.mode.startswith("I")
    pixels = np.asarray(image, np.uint16)[..., None].repeat(3, -1) if is_wide else np.array(image.convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _torchvision_is_for_cuda() -> bool:
    """Whether torch here knows no CUDA and torchvision does; a matching pair must be left alone."""
    if importlib.util.find_spec("torchvision") is None or sys.platform != "linux":
        return False
    torch_version, vision_version = (importlib.metadata.version(name) for name in ("torch", "torchvision"))
    return torch_version.endswith("+cpu") and not vision_version.endswith("+cpu")
