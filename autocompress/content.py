"""What a value is, to the last bit: a SHA-256 that is the same in every process, or the word that it cannot be told.

Values are taken apart as pickle takes them apart, except what must not depend on a process: functions and classes
count by their code and by what that names, hooks of modules by their order, sets by what is in them.
"""

from __future__ import annotations

import copyreg
import functools
import hashlib
import secrets
import sys
import types
import weakref
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from torch.utils.hooks import RemovableHandle

from autocompress.errors import first_line

PLAIN = (
    str, bytes, int, float, bool, complex, range, type(None), type(Ellipsis), type(NotImplemented),
    torch.dtype, torch.device, torch.Size, torch.layout, torch.memory_format,
)  # fmt: skip
DESCRIPTORS = (
    types.WrapperDescriptorType, types.MethodDescriptorType, types.ClassMethodDescriptorType,
    types.GetSetDescriptorType, types.MemberDescriptorType,
)  # fmt: skip
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
OF_HOOKS = frozenset(name for name in vars(nn.Module()) if "hook" in name)
"""What torch keeps of hooks; those of state dicts have no say in a training."""

SALTED = "_original_object_hash"
"""Of transformers' generation settings: Python's hash of the others, which is another one in each process."""


class Unknown(Exception):
    """What a value is cannot be told; the message names its kind."""


class Content:
    """A SHA-256 of the values that it is fed with."""

    def __init__(self, *, sources: bool = True, check: Callable[[], None] = lambda: None) -> None:
        """Without `sources` code may move and be commented: files, names of modules and versions do not count.

        `check` is called for each value, and may raise.
        """
        self._digest, self._sources, self._check = hashlib.sha256(), sources, check
        self._seen: dict[int, int] = {}
        self._alive: list[Any] = []
        """What was seen, so that no other value gets its `id`."""

    def feed(self, *values: Any) -> Content:
        """Raises Unknown, and then is of no more use."""
        try:
            for value in values:
                self._feed(value)
        except RecursionError:
            raise Unknown("values nested too deeply") from None
        return self

    def hexdigest(self) -> str:
        return self._digest.hexdigest()

    def digest(self) -> bytes:
        return self._digest.digest()

    def _note(self, *texts: str) -> None:
        for text in texts:
            data = text.encode(errors="surrogatepass")
            self._digest.update(f"{len(data)}:".encode() + data)

    def _feed(self, value: Any) -> None:
        self._check()
        if type(value) in PLAIN:
            self._note(type(value).__name__, repr(value))
        elif type(value) is tuple:
            self._all("tuple", value)
        elif id(value) in self._seen:
            self._note("again", str(self._seen[id(value)]))
        else:
            self._seen[id(value)] = len(self._seen)
            self._alive.append(value)
            self._compound(value)

    def _all(self, kind: str, values: Iterable[Any]) -> None:
        values = list(values)
        self._note(kind, str(len(values)))
        for value in values:
            self._feed(value)

    def _compound(self, value: Any) -> None:
        match value:
            case Tensor():
                self._tensor(value)
            case np.ndarray() | np.generic():
                self._array(value)
            case nn.Module():
                self._module(value)
            case type():
                self._class(value)
            case types.FunctionType():
                self._function(value)
            case types.CodeType():
                self._code(value)
            case types.MethodType():
                self._all("method", (value.__func__, value.__self__))
            case property():
                self._all("property", (value.fget, value.fset, value.fdel))
            case staticmethod() | classmethod():
                self._all(type(value).__name__, (value.__func__,))
            case types.BuiltinFunctionType() if isinstance(value.__self__, types.ModuleType | None):
                self._note("builtin", str(value.__module__), value.__qualname__)
            case types.ModuleType():
                self._note("module", value.__name__)
            case weakref.ref():
                self._all("weak", (value(),))
            case torch.Generator():
                self._all("generator", (value.get_state(),))
            case torch.fx.Graph():
                code = value.python_code("self")
                self._all("graph", (code.src, code.globals))
            case RemovableHandle():  # its number is that of a process; the hook itself is told by its module
                self._note("handle")
            case _ if isinstance(value, DESCRIPTORS):
                self._note("descriptor", value.__objclass__.__qualname__, value.__name__)
            case _:
                self._container(value)

    def _container(self, value: Any) -> None:
        kind = type(value)
        if kind is list:
            self._all("list", value)
        elif kind is dict or kind is types.MappingProxyType:
            self._all("dict", (item for item in value.items() if item[0] != SALTED))
        elif kind is set or kind is frozenset:
            of_each = [Content(sources=self._sources, check=self._check).feed(item).hexdigest() for item in value]
            self._all(kind.__name__, sorted(of_each))
        else:
            self._object(value)

    def _object(self, value: Any) -> None:
        """As pickle: what makes it, from what, and its state."""
        reduce = copyreg.dispatch_table.get(type(value))
        try:
            parts: Any = reduce(value) if reduce else value.__reduce_ex__(4)
        except Exception:  # locks, files, what a library keeps in C
            raise Unknown(f"a {type(value).__name__}") from None
        self._feed(type(value))
        if isinstance(parts, str):
            self._note("named", str(getattr(value, "__module__", "")), parts)
            self._feed(getattr(value, "__wrapped__", None))
            return
        made_by, made_of, *more = parts
        state, items, pairs = [*more, None, None, None][:3]
        self._all("object", (made_by, made_of, state, list(items or ()), list(pairs or ())))

    def _tensor(self, value: Tensor) -> None:
        self._note("tensor", type(value).__name__, str(value.requires_grad))
        self._feed(vars(value))
        self._all("hooks", (value._backward_hooks or {}).values())
        if is_traceable_wrapper_subclass(value):
            parts, context = value.__tensor_flatten__()
            self._all("parts", (context, *(getattr(value, part) for part in parts)))
            return
        try:
            data = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
            self._note(str(value.dtype), str(tuple(value.shape)), str(value.stride()), str(value.device.type))
        except Exception as error:  # sparse, quantized, on no device
            raise Unknown(f"a tensor that gives no bytes: {first_line(error)}") from None
        self._digest.update(data.data)

    def _array(self, value: Any) -> None:
        self._note("array", type(value).__name__, str(value.dtype), str(value.shape))
        if value.dtype.hasobject:
            self._feed(value.tolist())
        else:
            self._digest.update(value.tobytes())

    def _module(self, module: nn.Module) -> None:
        """All that the module holds: parameters, buffers, submodules in their order, plain attributes, hooks."""
        self._feed(type(module))
        held = vars(module)
        for name in sorted(held.keys() - OF_HOOKS):
            self._note(name)
            self._feed(held[name])
        for name in HOOKS:
            marks = [held.get(f"{name}_{mark}", ()) for mark in ("with_kwargs", "always_called")]
            hooks = held.get(name, {}).items()
            self._all(name, ((hook, *(key in marked for marked in marks)) for key, hook in hooks))

    def _class(self, kind: type) -> None:
        self._all("class", kind.__bases__)
        self._place(kind)
        if is_library(kind.__module__):
            return
        for name, held in sorted(vars(kind).items()):
            code = isinstance(held, types.FunctionType | property | staticmethod | classmethod)
            if name != "_abc_impl" and (code or not name.startswith("__")):
                self._note(name)
                self._feed(held)

    def _function(self, function: types.FunctionType) -> None:
        self._note("function")
        self._place(function)
        self._feed((function.__defaults__, function.__kwdefaults__, vars(function)))
        self._all("closure", (_held(cell) for cell in function.__closure__ or ()))
        if is_library(function.__module__):
            return
        self._feed(function.__code__)
        names, known = set(_names(function.__code__)), function.__globals__
        for name in sorted(names & known.keys()):
            self._note(name)
            self._feed(known[name])
            if isinstance(known[name], types.ModuleType) and not is_library(known[name].__name__):
                of_module = vars(known[name])
                self._all("of module", ((other, of_module[other]) for other in sorted(names & of_module.keys())))

    def _code(self, code: types.CodeType) -> None:
        """Without lines and files."""
        counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
        names = (code.co_names, code.co_freevars, code.co_cellvars)
        self._feed((code.co_code, code.co_consts, counts, names, code.co_exceptiontable))

    def _place(self, code: type | types.FunctionType) -> None:
        module = code.__module__ or ""
        self._note(code.__qualname__)
        if self._sources or is_library(module):
            self._note(module)
        if self._sources:
            package = sys.modules.get(module.partition(".")[0])
            self._note(source_digest(module), str(getattr(package, "__version__", "")))


@functools.cache
def is_library(module: str) -> bool:
    """Whether a module is the engine's, Python's or installed: its files and version say what is in it."""
    top = module.partition(".")[0]
    if top == "autocompress" or top in sys.stdlib_module_names:
        return True
    file = getattr(sys.modules.get(module), "__file__", None) or ""
    return not {"site-packages", "dist-packages"}.isdisjoint(Path(file).parts)


def source_digest(module: str) -> str:
    """SHA-256 of the module's source file; empty without one."""
    file = getattr(sys.modules.get(module), "__file__", None)
    return file_digest(Path(file)) if file and file.endswith(".py") else ""


@functools.cache
def file_digest(path: Path) -> str:
    """SHA-256, as the file was when this process first asked; of one that cannot be read, like that of no other."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return secrets.token_hex(32)


def _names(code: types.CodeType) -> Iterator[str]:
    """What the code and all functions in it name."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _held(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # a function that is not defined yet
        return NotImplemented
