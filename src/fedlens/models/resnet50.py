"""ResNet-50: He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", CVPR 2016."""

from __future__ import annotations

from dataclasses import dataclass

from fedlens.models.base import ModelRequest, Recognizer, models
from fedlens.models.imagenet import ImageNetBuilder, imagenet_preprocessing, split_head
from fedlens.models.weights import TorchvisionWeights


@models.register("resnet50", summary="residual network, 50 layers, 25.6 M parameters: the usual reference")
@dataclass(frozen=True)
class ResNet50(ImageNetBuilder):
    default_image_size = 224

    def source(self) -> TorchvisionWeights:
        return TorchvisionWeights("resnet50", "ResNet50_Weights.IMAGENET1K_V2")

    def build(self, request: ModelRequest) -> Recognizer:
        from torchvision.models import resnet50

        network = resnet50()
        if request.pretrained:
            network.load_state_dict(self.source().tensors())
        return split_head(network, "fc", request, imagenet_preprocessing(request.image_size))
