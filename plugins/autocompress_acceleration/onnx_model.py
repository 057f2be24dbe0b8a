"""A model that ONNX Runtime runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autocompress import Runtime, Target
from autocompress_acceleration.export import Interface

MODEL_FILE = "model.onnx"


class OnnxModel(Runtime):
    """Takes and gives tensors nested as the model did that it was exported from, on the target's device."""

    file: Tensor
    """The bytes of `model.onnx` (bytes,)."""

    def __init__(self, file: bytes, interface: Interface, target: Target) -> None:
        """Raises ONNX Runtime's exceptions for a graph that it cannot run."""
        super().__init__()
        self.interface, self.device = interface, target.torch_device
        self.register_buffer("file", torch.frombuffer(bytearray(file), dtype=torch.uint8))
        self._session = _session(file, target)
        self._names = [node.name for node in self._session.get_inputs()]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        tensors = self.interface.flat(*args, **kwargs)
        arrays = (tensor.detach().cpu().contiguous().numpy() for tensor in tensors)
        outputs = self._session.run(None, dict(zip(self._names, arrays, strict=True)))
        return self.interface.nested(torch.from_numpy(output).to(self.device) for output in outputs)

    def save(self, folder: Path) -> list[str]:
        (folder / MODEL_FILE).write_bytes(self.file.cpu().numpy().tobytes())
        return [MODEL_FILE, self.interface.save(folder)]

    @classmethod
    def load(cls, folder: Path, target: Target) -> OnnxModel:
        return cls((folder / MODEL_FILE).read_bytes(), Interface.load(folder), target)


def _session(file: bytes, target: Target) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised
    options.intra_op_num_threads = target.threads
    options.inter_op_num_threads = 1
    # Its threads would turn in circles between calls, on cores that other trials train on.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers: list[Any] = ["CPUExecutionProvider"]
    if target.is_cuda:
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": target.torch_device.index or 0}))
    return onnxruntime.InferenceSession(file, options, providers=providers)
