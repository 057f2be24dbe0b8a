"""Whether this machine can compile for a target."""

from __future__ import annotations

from autocompress import NotApplicable, Target
from autocompress_acceleration.export import quiet


def check_compiler(method: str, target: Target) -> None:
    """Raises NotApplicable without a C++ compiler, or without Triton for a GPU."""
    with quiet():
        from torch._inductor.cpp_builder import get_cpp_compiler
        from torch._inductor.exc import InvalidCxxCompiler
        from torch.utils._triton import has_triton
    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise NotApplicable(f"{method} needs a C++ compiler, but this machine has none: install g++") from error
    if target.is_cuda and not has_triton():
        raise NotApplicable(f"{method} needs Triton for {target.device}: pip install triton")
