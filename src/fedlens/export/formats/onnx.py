"""ONNX: for ONNX Runtime, TensorRT, OpenVINO, browsers and phones. By PyTorch's exporter (torch.export), with the
extra `fedlens[export]`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from fedlens.core.files import write_atomic
from fedlens.errors import ConfigError
from fedlens.export.base import Format, Runner, Trained, WithPreprocessing, formats

OPSET = 18
"""That of the operators which the exporter knows; it makes other opsets by converting this one."""

_QUIET = 3
"""ONNX Runtime's log level for errors."""


@formats.register("onnx", summary="for ONNX Runtime and what else reads ONNX; preprocessing inside")
@dataclass(frozen=True)
class Onnx(Format):
    library: ClassVar[str] = "onnx"
    packages: ClassVar[tuple[str, ...]] = ("torch", "onnx", "onnxscript", "onnxruntime")
    files: ClassVar[tuple[str, ...]] = ("model.onnx",)
    whole: ClassVar[bool] = True
    usage: ClassVar[str] = """\
import json
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
(logits,) = session.run(None, {"images": images})
names = json.loads(session.get_modelmeta().custom_metadata_map["class_names"])
"""

    def check(self, trained: Trained) -> None:
        try:
            import onnx  # noqa: F401
            import onnxruntime  # noqa: F401
            import onnxscript  # noqa: F401
        except ImportError as error:
            raise ConfigError(
                f"--format onnx needs the package {error.name}, of the extra: pip install 'fedlens[export]'",
                code="unavailable",
                key="--format",
            ) from error

    def write(self, trained: Trained, folder: Path) -> str:
        import onnx

        model = _exported(trained)
        onnx.checker.check_model(model)
        metadata = {"class_names": trained.outputs, "preprocessing": trained.preprocessing}
        onnx.helper.set_model_props(model, {key: json.dumps(value) for key, value in metadata.items()})
        write_atomic(folder / self.files[0], model.SerializeToString())
        return f"opset {OPSET}"

    def open(self, folder: Path) -> Runner:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = _QUIET
        session = onnxruntime.InferenceSession(str(folder / self.files[0]), options, providers=["CPUExecutionProvider"])

        def run(pixels: Tensor) -> Tensor:
            (logits,) = session.run(["logits"], {"images": pixels.numpy()})
            return torch.from_numpy(logits)

        return run


def _exported(trained: Trained) -> Any:
    """The model as an `onnx.ModelProto`, for any number of images at once."""
    sample = torch.zeros(2, *trained.preprocessing["pixels"]["shape"][1:], dtype=torch.uint8)
    program = torch.onnx.export(
        WithPreprocessing(trained.model).eval(),
        (sample,),
        input_names=["images"],
        output_names=["logits"],
        opset_version=OPSET,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    return program.model_proto
