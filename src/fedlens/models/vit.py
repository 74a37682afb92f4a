"""Vision transformer: Dosovitskiy et al., "An Image is Worth 16×16 Words", ICLR 2021.

Images are cut into patches of 16 pixels; images whose side is no multiple of 16 are padded with zeros. Pretrained
position embeddings are resampled if the patch grid differs from that of their training.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fedlens.models.base import ModelRequest, Recognizer, models
from fedlens.models.imagenet import ImageNetBuilder, imagenet_preprocessing, pad_to_patches, split_head
from fedlens.models.timm_models import split_timm, timm_network, timm_preprocessing
from fedlens.models.weights import TimmWeights, TorchvisionWeights

PATCH = 16
TINY = "vit_tiny_patch16_224"


@models.register("vit", summary="vision transformer ViT-B/16, 86.6 M parameters (variant=tiny: 5.7 M, small machines)")
@dataclass(frozen=True)
class ViT(ImageNetBuilder):
    variant: Literal["b16", "tiny"] = "b16"

    @property
    def default_image_size(self) -> int:
        return 224 if self.variant == "b16" else 96

    def source(self) -> TorchvisionWeights | TimmWeights:
        if self.variant == "b16":
            return TorchvisionWeights("vit", "ViT_B_16_Weights.IMAGENET1K_V1")
        return TimmWeights("vit variant=tiny", TINY)

    def build(self, request: ModelRequest) -> Recognizer:
        side = request.image_size + -request.image_size % PATCH
        model = self._b16(request, side) if self.variant == "b16" else self._tiny(request, side)
        pad_to_patches(model.backbone, request.image_size, PATCH)
        return model

    def _b16(self, request: ModelRequest, side: int) -> Recognizer:
        from torchvision.models.vision_transformer import interpolate_embeddings, vit_b_16

        network = vit_b_16(image_size=side)
        if request.pretrained:
            network.load_state_dict(interpolate_embeddings(side, PATCH, self.source().tensors()))
        return split_head(network, "heads.head", request, imagenet_preprocessing(request.image_size))

    def _tiny(self, request: ModelRequest, side: int) -> Recognizer:
        tensors = self.source().tensors() if request.pretrained else None
        network = timm_network(TINY, side, tensors)
        return split_timm(network, request, timm_preprocessing(network, request.image_size))
