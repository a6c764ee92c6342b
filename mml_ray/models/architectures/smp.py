"""Encoder-decoder networks of segmentation_models_pytorch, for every task type (``pip install 'mml-ray[smp]'``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from mml_ray.errors import MMLMisconfigurationException, UnknownNameError
from mml_ray.models.architectures.base import Architecture, Features, pad_to, take
from mml_ray.models.architectures.extras import load_extra, with_weights

DECODERS = "unet unetplusplus manet linknet fpn pspnet deeplabv3 deeplabv3plus pan upernet segformer".split()
#: images are padded to a multiple of this, which is cut off again
_STRIDE = 32


class EncoderDecoder(Architecture):
    """``pooled`` is the mean of the encoder's last features, ``dense`` what the decoder gives (it may be smaller than the image)."""

    def __init__(self, name: str, network: Any) -> None:
        super().__init__()
        self.name = name
        self.encoder: nn.Module = network.encoder
        self.decoder: nn.Module = network.decoder
        self.pooled_dim = int(network.encoder.out_channels[-1])
        self.dense_dim = int(network.segmentation_head[0].in_channels)

    def forward_features(self, images: Tensor) -> Features:
        """Both kinds, for images of any size."""
        height, width = images.shape[-2:]
        padded = pad_to(images, _STRIDE)
        encoded = self.encoder(padded)
        dense = self.decoder(encoded)
        scale = padded.shape[-1] // dense.shape[-1]
        if padded.shape != images.shape:
            dense = dense[..., : -(-height // scale), : -(-width // scale)]
        return Features(encoded[-1].mean(dim=(-2, -1)), dense)


def create(params: Mapping[str, Any]) -> Architecture:
    """``name`` of the decoder (``unet``), ``encoder`` (``tu-resnet34``), its ``weights`` (``imagenet``; null: none), ``params``."""
    defaults = {"name": "unet", "encoder": "tu-resnet34", "weights": "imagenet", "in_channels": 3, "params": {}}
    chosen = take(params, defaults, "smp")
    smp = load_extra("segmentation_models_pytorch", "segmentation-models-pytorch", "smp")
    name, encoder, weights = str(chosen["name"]), str(chosen["encoder"]), chosen["weights"]
    if name not in DECODERS:
        raise UnknownNameError.of("decoder of arch=smp", name, DECODERS)
    _check_encoder(smp, encoder)
    more = dict(chosen["params"] or {})

    def make() -> Any:
        return smp.create_model(
            name, encoder_name=encoder, encoder_weights=weights, in_channels=int(chosen["in_channels"]), classes=1, **more
        )

    try:
        made = EncoderDecoder(f"{name} ({encoder})", with_weights(make, encoder, "arch.weights=null"))
    except (TypeError, ValueError, KeyError) as error:
        raise MMLMisconfigurationException(f"arch=smp, {name} with encoder '{encoder}', weights {weights!r}: {error}") from error
    if weights:
        about = smp.encoders.get_preprocessing_params(encoder, pretrained=weights)
        made.mean, made.std = tuple(about["mean"]), tuple(about["std"])
    return made


def _check_encoder(smp: Any, encoder: str) -> None:
    if encoder.startswith("tu-"):
        timm = load_extra("timm", "timm", "smp")
        if not timm.is_model(encoder.removeprefix("tu-")):
            raise UnknownNameError.of("encoder of arch=smp", encoder, [f"tu-{name}" for name in timm.list_models()])
    elif encoder not in smp.encoders.get_encoder_names():
        raise UnknownNameError.of(
            "encoder of arch=smp", encoder, smp.encoders.get_encoder_names(), "Those of timm begin with tu-."
        )
