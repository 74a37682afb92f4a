"""ResNet-18: He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", CVPR 2016."""

from __future__ import annotations

from dataclasses import dataclass

from fedlens.models.base import ModelRequest, Recognizer, models
from fedlens.models.imagenet import ImageNetBuilder, imagenet_preprocessing, split_head
from fedlens.models.weights import TorchvisionWeights


@models.register("resnet18", summary="residual network, 18 layers, 11.7 M parameters: a solid middle size")
@dataclass(frozen=True)
class ResNet18(ImageNetBuilder):
    default_image_size = 224

    def source(self) -> TorchvisionWeights:
        return TorchvisionWeights("resnet18", "ResNet18_Weights.IMAGENET1K_V1")

    def build(self, request: ModelRequest) -> Recognizer:
        from torchvision.models import resnet18

        network = resnet18()
        if request.pretrained:
            network.load_state_dict(self.source().tensors())
        return split_head(network, "fc", request, imagenet_preprocessing(request.image_size))
