"""MobileNetV3: Howard et al., "Searching for MobileNetV3", ICCV 2019."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fedlens.models.base import ModelRequest, Recognizer, models
from fedlens.models.imagenet import ImageNetBuilder, imagenet_preprocessing, split_head
from fedlens.models.weights import TorchvisionWeights

WEIGHTS = {"small": "MobileNet_V3_Small_Weights.IMAGENET1K_V1", "large": "MobileNet_V3_Large_Weights.IMAGENET1K_V2"}


@models.register(
    "mobilenetv3", summary="made for phones, 2.5 M parameters (variant=large: 5.5 M): quick on any machine"
)
@dataclass(frozen=True)
class MobileNetV3(ImageNetBuilder):
    variant: Literal["small", "large"] = "small"

    default_image_size = 224

    def source(self) -> TorchvisionWeights:
        return TorchvisionWeights(f"mobilenetv3 variant={self.variant}", WEIGHTS[self.variant])

    def build(self, request: ModelRequest) -> Recognizer:
        from torchvision.models import mobilenet_v3_large, mobilenet_v3_small

        network = mobilenet_v3_small() if self.variant == "small" else mobilenet_v3_large()
        if request.pretrained:
            network.load_state_dict(self.source().tensors())
        return split_head(network, "classifier.3", request, imagenet_preprocessing(request.image_size))
