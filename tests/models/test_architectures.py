"""Architectures: features of the promised shape for every network and image size; errors that help."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from mml_ray.errors import MMLMisconfigurationException, UnknownNameError
from mml_ray.models.architectures import create_architecture, extras, supports
from mml_ray.models.architectures.base import Architecture, Features
from mml_ray.registry import registry

QUICK = ["resnet_small", "resnet10", "basic_unet"]
ALL = ["resnet18", "resnet34", "resnet50", "densenet121", "efficientnet-b0"]


@pytest.mark.parametrize("name", [*QUICK, *[pytest.param(name, marks=pytest.mark.slow) for name in ALL]])
def test_features_have_the_promised_channels(name: str) -> None:
    made = create_architecture({"backend": "monai", "name": name, "drop_rate": 0.1, "pretrained": False, "params": {}}).eval()
    for height, width in ((64, 64), (96, 128)) if name.startswith(("efficient", "dense")) else ((64, 64), (40, 56), (17, 31)):
        with torch.no_grad():
            features = made(torch.rand(2, 3, height, width))
        assert features.pooled.shape == (2, made.pooled_dim)
        assert (features.dense is None) == (made.dense_dim == 0)
        if features.dense is not None:
            assert features.dense.shape == (2, made.dense_dim, height, width)
    assert made.supports("cls") and made.supports("seg") == (name == "basic_unet")
    arch = {"backend": "monai", "name": name}
    assert (supports(arch, "cls"), supports(arch, "seg")) == (made.supports("cls"), made.supports("seg")), "told without building"


def test_the_default_is_small_and_takes_arguments() -> None:
    made = create_architecture(None)
    assert made.name == "resnet_small" and sum(p.numel() for p in made.parameters()) < 400_000
    narrow = create_architecture({"params": {"block_inplanes": [4, 4, 8, 8]}, "in_channels": 1})
    assert narrow(torch.rand(2, 1, 16, 16)).pooled.shape == (2, 8)


@pytest.mark.parametrize(
    ("arch", "error", "message"),
    [
        ({"backend": "monia"}, UnknownNameError, "Did you mean: monai"),
        ({"name": "resnet_smal"}, UnknownNameError, "Did you mean: resnet_small"),
        ({"nam": "resnet10"}, MMLMisconfigurationException, "arch.nam: not known to the backend 'monai', which takes name"),
        ({"pretrained": True}, MMLMisconfigurationException, "have no weights"),
        ({"params": {"bogus": 1}}, MMLMisconfigurationException, "bogus"),
    ],
)
def test_wrong_settings(arch: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        create_architecture(arch)


def test_a_plugin_adds_a_backend() -> None:
    class Mean(Architecture):
        name, pooled_dim = "mean", 3

        def forward_features(self, images: torch.Tensor) -> Features:
            return Features(images.mean(dim=(2, 3)), None)

    registry.add("architecture", "mean_for_test", lambda params: Mean())
    registry.add("architecture", "wrong_for_test", lambda params: nn.Linear(1, 1))
    try:
        assert create_architecture({"backend": "mean_for_test"})(torch.rand(2, 3, 4, 4)).pooled.shape == (2, 3)
        with pytest.raises(MMLMisconfigurationException, match="made a Linear, not an Architecture"):
            create_architecture({"backend": "wrong_for_test"})
    finally:
        registry.remove("architecture", "mean_for_test")
        registry.remove("architecture", "wrong_for_test")
    with pytest.raises(NotImplementedError):
        Architecture().forward_features(torch.zeros(1))


def test_names_can_be_listed_without_loading_a_backend() -> None:
    code = (
        "import sys; from mml_ray.registry import registry; print(registry.names('architecture'), "
        "[m for m in ('monai', 'timm', 'segmentation_models_pytorch', 'torch') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "['monai', 'smp', 'timm'] []"


# -- extras ------------------------------------------------------------------------------------------------------------
def test_timm_models_give_one_vector_per_image(extras: None) -> None:
    pytest.importorskip("timm", reason="the extra 'timm' is not installed")
    for name in ("resnet18", "convnext_atto", "mobilenetv3_small_050"):
        made = create_architecture({"backend": "timm", "name": name, "pretrained": False, "drop_rate": 0.1}).eval()
        assert made(torch.rand(2, 3, 64, 64)).pooled.shape == (2, made.pooled_dim)
        assert not made.supports("seg") and len(made.mean or ()) == 3
    with pytest.raises(UnknownNameError, match="Did you mean: resnet18"):
        create_architecture({"backend": "timm", "name": "resnet_18"})
    with pytest.raises(MMLMisconfigurationException, match="bogus"):
        create_architecture({"backend": "timm", "name": "resnet18", "pretrained": False, "params": {"bogus": 1}})


def test_smp_networks_take_images_of_any_size(extras: None) -> None:
    pytest.importorskip("segmentation_models_pytorch", reason="the extra 'smp' is not installed")
    from mml_ray.models.heads import TaskSpec, create_head

    spec = TaskSpec.parse("t", {"task_type": "semantic_segmentation", "num_classes": 3})
    for name, encoder in (
        ("unet", "tu-resnet18"),
        ("fpn", "resnet18"),
        ("deeplabv3plus", "resnet18"),
        ("segformer", "tu-resnet18"),
    ):
        made = create_architecture({"backend": "smp", "name": name, "encoder": encoder, "weights": None}).eval()
        features = made(torch.rand(2, 3, 70, 100))
        assert features.pooled.shape == (2, made.pooled_dim) and features.dense.shape[:2] == (2, made.dense_dim)
        assert create_head(made, spec)(features, (70, 100)).shape == (2, 3, 70, 100)
    for arch, message in (
        ({"name": "unett"}, "Did you mean: unet"),
        ({"encoder": "resnet_18", "weights": None}, "Did you mean: resnet18"),
        ({"encoder": "tu-resnet_18", "weights": None}, "Did you mean: tu-resnet18"),
        ({"encoder": "resnet18", "weights": "bogus"}, "bogus"),
    ):
        with pytest.raises(MMLMisconfigurationException, match=message):
            create_architecture({"backend": "smp", **arch})


def _importing(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(name: str) -> Any:
        raise error

    monkeypatch.setattr(extras, "importlib", SimpleNamespace(import_module=fail))


def test_a_missing_extra_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    _importing(monkeypatch, ModuleNotFoundError("No module named 'timm'", name="timm"))
    with pytest.raises(ImportError, match=r"pip install 'mml-ray\[timm\]'"):
        extras.load_extra("timm", "timm", "timm")
    _importing(monkeypatch, RuntimeError("operator torchvision::nms does not exist"))
    with pytest.raises(MMLMisconfigurationException, match="does not fit this torch .* Install both together"):
        extras.load_extra("timm", "timm", "smp")
    _importing(monkeypatch, RuntimeError("something else"))
    with pytest.raises(RuntimeError, match="something else"):
        extras.load_extra("timm", "timm", "smp")


def test_a_failing_download_says_how_to_do_without() -> None:
    def fail() -> None:
        raise ConnectionError("no route to host")

    with pytest.raises(MMLMisconfigurationException, match="no route to host.*arch.pretrained=false"):
        extras.with_weights(fail, "resnet18", "arch.pretrained=false")
