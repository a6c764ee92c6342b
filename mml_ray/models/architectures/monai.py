"""Networks of MONAI, trained from scratch; they need no torchvision."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from mml_ray.errors import MMLMisconfigurationException, UnknownNameError
from mml_ray.models.architectures.base import Architecture, Features, PooledNet, pad_to, take


class DenseNet(Architecture):
    """An encoder-decoder: ``dense`` is its last layer at full size, ``pooled`` the mean of its deepest one."""

    def __init__(self, name: str, network: nn.Module, deepest: nn.Module, *, pooled_dim: int, dense_dim: int) -> None:
        super().__init__()
        self.name = name
        self.network = network
        self.pooled_dim = pooled_dim
        self.dense_dim = dense_dim
        self._deep: Tensor | None = None
        deepest.register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self._deep = output

    def forward_features(self, images: Tensor) -> Features:
        """Both kinds; images of any size (padded to a multiple of 16, 32 at least, which is cut off again)."""
        height, width = images.shape[-2:]
        dense = self.network(pad_to(images, 16, 32))[..., :height, :width]
        deep, self._deep = self._deep, None
        return Features(None if deep is None else deep.mean(dim=(-2, -1)), dense)


def create(params: Mapping[str, Any]) -> Architecture:
    """``name`` (default ``resnet_small``), ``in_channels`` (3), ``params`` for MONAI's own arguments."""
    chosen = take(params, {"name": "resnet_small", "pretrained": False, "in_channels": 3, "params": {}}, "monai")
    name = str(chosen["name"])
    if chosen["pretrained"]:
        raise MMLMisconfigurationException(
            f"arch.pretrained=true: the 2d networks of MONAI ('{name}') have no weights; take arch=timm."
        )
    maker = _MAKERS.get(name)
    if maker is None:
        raise UnknownNameError.of("network of arch=monai", name, _MAKERS)
    try:
        return maker(name, int(chosen["in_channels"]), dict(chosen["params"] or {}))
    except TypeError as error:
        raise MMLMisconfigurationException(f"arch.params={chosen['params']} for '{name}': {error}") from error


def _resnet_small(name: str, in_channels: int, params: dict[str, Any]) -> Architecture:
    """Four stages of one basic block, 16 to 128 planes: 0.3 million parameters, made for CPUs and images of 32 to 224 pixels."""
    from monai.networks.nets.resnet import ResNet

    settings: dict[str, Any] = {
        "block": "basic",
        "layers": [1, 1, 1, 1],
        "block_inplanes": [16, 32, 64, 128],
        "conv1_t_size": 3,
        "conv1_t_stride": 2,
        **params,
    }
    network = ResNet(spatial_dims=2, n_input_channels=in_channels, feed_forward=False, **settings)
    return PooledNet(name, network, settings["block_inplanes"][-1])


def _resnet(name: str, in_channels: int, params: dict[str, Any]) -> Architecture:
    from monai.networks.nets import resnet

    network = getattr(resnet, name)(
        spatial_dims=2, n_input_channels=in_channels, feed_forward=False, **{"conv1_t_stride": 2, **params}
    )
    return PooledNet(name, network, network.in_planes)


def _densenet(name: str, in_channels: int, params: dict[str, Any]) -> Architecture:
    from monai.networks.nets import densenet

    network = getattr(densenet, name)(spatial_dims=2, in_channels=in_channels, out_channels=1, **params)
    dim = int(network.class_layers.out.in_features)
    network.class_layers.out = nn.Identity()
    return PooledNet(name, network, dim)


def _efficientnet(name: str, in_channels: int, params: dict[str, Any]) -> Architecture:
    from monai.networks.nets.efficientnet import EfficientNetBN

    network = EfficientNetBN(name, pretrained=False, spatial_dims=2, in_channels=in_channels, num_classes=1, **params)
    dim = int(network._fc.in_features)
    network._fc = nn.Identity()
    return PooledNet(name, network, dim)


def _basic_unet(name: str, in_channels: int, params: dict[str, Any]) -> Architecture:
    from monai.networks.nets.basic_unet import BasicUNet

    settings: dict[str, Any] = {"features": (16, 32, 64, 128, 256, 16), **params}
    network = BasicUNet(spatial_dims=2, in_channels=in_channels, out_channels=1, **settings)
    network.final_conv = nn.Identity()
    features = settings["features"]
    return DenseNet(name, network, network.down_4, pooled_dim=features[4], dense_dim=features[5])


_MAKERS: dict[str, Callable[[str, int, dict[str, Any]], Architecture]] = {
    "resnet_small": _resnet_small,
    **dict.fromkeys(("resnet10", "resnet18", "resnet34", "resnet50", "resnet101"), _resnet),
    **dict.fromkeys(("densenet121", "densenet169", "densenet201"), _densenet),
    **{f"efficientnet-b{size}": _efficientnet for size in range(8)},
    "basic_unet": _basic_unet,
}
