"""A GPU that is not there: code runs with tensors on "cuda", and whatever would wait for the device is an error.

::

    with pretended_gpu() as gpu:
        module = gpu.moved(module)  # its parameters and buffers lie on "cuda" now
        x = torch.empty(2, 1, 16, 16, 16, device="cuda")
        module(x)  # a rehearsal: it may wait, for what is made once and kept
        with gpu.busy():
            module(x).sum().backward()  # Waits where the host would stand still until the device has caught up

Tensors are PyTorch's fake ones: they have shapes, types, layouts and devices, and no values. Where waiting is allowed,
a number that is read is 1. Autograd, autocast, optimisers and Lightning run as they are. Triton's kernels
cannot: an operator with a registered fake stands in for those of the norm.

What counts as waiting: reading a value (``.item()``, ``bool(x)``, ``.tolist()``), results whose size depends on
values (``nonzero``, boolean masks, ``unique``), copies from the device that are not ``non_blocking``, and copies to it
from memory that is not pinned, or without ``non_blocking``. ``torch.tensor(..., device="cuda")`` is one of the last.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

GPU, META = torch.device("cuda", 0), torch.device("meta")
COPIES = (torch.ops.aten._to_copy, torch.ops.aten.copy_, torch.ops.aten.copy)
READS = (torch.ops.aten._local_scalar_dense, torch.ops.aten.equal, torch.ops.aten.is_nonzero)
WITHOUT_FAKE = (torch.ops.aten._fused_sgd_,)  # changes its arguments alone
MASKED = (torch.ops.aten.index, torch.ops.aten.index_put, torch.ops.aten.index_put_)


class Waits(AssertionError):
    """The host would wait for the device."""


class PretendedGPU(TorchDispatchMode):
    """What lies between the code and the fake tensors; see the module's text.

    Attributes:
        copied: (bytes, from, to) of each copy between host and device while the device was busy.
        calls: names of all operators while the device was busy.
    """

    def __init__(self) -> None:
        super().__init__()
        self.copied: list[tuple[int, str, str]] = []
        self.calls: list[str] = []
        self._busy = self._backward = False
        self._pinned: dict[int, Tensor] = {}  # by storage; holding the tensor keeps the number its own

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Raise Waits wherever the host would wait."""
        before, self._busy = self._busy, True
        try:
            yield
        finally:
            self._busy = before

    def moved(self, module: nn.Module) -> Any:
        """The module, its parameters and buffers replaced by ones on the device. ``module.to`` cannot swap them."""
        made: dict[int, Tensor] = {}  # shared ones stay shared

        def move(old: Tensor | None) -> Tensor | None:
            if old is None:
                return None
            if id(old) not in made:
                new = torch.empty_strided(old.shape, old.stride(), dtype=old.dtype, device=GPU)
                made[id(old)] = nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new
            return made[id(old)]

        for part in module.modules():
            for kept in (part._parameters, part._buffers):
                kept.update({name: move(old) for name, old in kept.items()})
        return module

    def waits(self, why: str) -> None:
        """Raises Waits while the device is busy."""
        if self._busy:
            raise Waits(why)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.ops.prim.device.default:
            return self._device(args[0])
        packet, pins = func.overloadpacket, kwargs.pop("pin_memory", False)
        if kwargs.get("device") == META:
            kwargs["device"] = GPU  # C++ asked for the device of a tensor
        if packet is torch.ops.aten.is_pinned:
            return self._is_pinned(args[0])
        if packet is torch.ops.aten._pin_memory:
            return self._pin(torch.empty_like(args[0]))
        on_device = any(isinstance(x, Tensor) and x.device == GPU for x in tree_leaves((args, kwargs)))
        if on_device or kwargs.get("device") == GPU:
            self._look_at(func, packet, args, kwargs)
        if packet in READS:
            return 1.0 if args[0].is_floating_point() else True
        if packet in WITHOUT_FAKE:
            return None
        result = func(*args, **kwargs)
        return self._pin(result) if pins else result

    def _device(self, x: Tensor) -> torch.device:
        """What C++ hears: its engine asks a real GPU's stream to add gradients, so there it hears of none."""
        device: torch.device = x.fake_device if isinstance(x, FakeTensor) else x.device
        return META if self._backward and device == GPU else device

    def _look_at(self, func: Any, packet: Any, args: Any, kwargs: dict[str, Any]) -> None:
        if packet in MASKED:
            depends = not _masks_nothing(args)
        else:
            tags = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
            depends = packet in READS or bool(tags & set(func.tags))
        if depends:
            self.waits(f"{func} needs values of the device")
        if packet in COPIES:
            self._look_at_copy(func, packet, args, kwargs)
        if self._busy:
            self.calls.append(str(packet))

    def _look_at_copy(self, func: Any, packet: Any, args: Any, kwargs: dict[str, Any]) -> None:
        allocates = packet is torch.ops.aten._to_copy
        source = args[0] if allocates else args[1]
        here, there = source.device.type, (kwargs.get("device") or source.device if allocates else args[0].device).type
        if here == there:
            return
        non_blocking = kwargs.get("non_blocking", False) or (not allocates and len(args) > 2 and args[2])
        if not non_blocking:
            self.waits(f"{func} from {here} to {there} without non_blocking")
        host = source if there == "cuda" else None if allocates else args[0]  # a host copy that PyTorch makes is pinned
        if host is not None and not self._is_pinned(host):
            self.waits(f"{func} from {here} to {there}, of host memory that is not pinned")
        if self._busy:
            self.copied.append((source.numel() * source.element_size(), here, there))

    def _pin(self, x: Tensor) -> Tensor:
        self._pinned[x.untyped_storage()._cdata] = x
        return x

    def _is_pinned(self, x: Tensor) -> bool:
        return x.untyped_storage()._cdata in self._pinned


def _masks_nothing(args: Any) -> bool:
    """Whether indices are numbers, or PyTorch makes ``x[mask] = number`` a fill."""
    masks = [index for index in args[1] if index is not None and index.dtype in (torch.bool, torch.uint8)]
    return not masks or (len(args) > 2 and len(masks) == 1 and args[2].numel() == 1)


@contextmanager
def pretended_gpu() -> Iterator[PretendedGPU]:
    """A machine with one GPU, as far as code can see that neither computes with CUDA's libraries nor looks at values.

    Not for a machine that has a GPU: there the test is skipped, since ``torch.cuda.set_sync_debug_mode`` tells more.
    """
    if torch.cuda.is_available():
        pytest.skip("has a real GPU")
    _let_devices_be_named()
    gpu = PretendedGPU()
    run_backward = torch.autograd._engine_run_backward

    def backward(*args: Any, **kwargs: Any) -> Any:
        gpu._backward = True
        try:
            return run_backward(*args, **kwargs)
        finally:
            gpu._backward = False

    answers: dict[str, Any] = {
        "torch.autograd._engine_run_backward": backward,
        "torch.cuda.amp.common.amp_definitely_not_available": lambda: False,
        "torch.cuda.is_bf16_supported": lambda *_, **__: True,
        "torch.cuda.is_current_stream_capturing": lambda: False,
        "torch.cuda.current_device": lambda: 0,
        "torch.cuda.set_device": lambda _: None,
        "torch.cuda._exchange_device": lambda _: 0,
        "torch.cuda._maybe_exchange_device": lambda _: 0,
        "torch.cuda.synchronize": lambda *_: gpu.waits("torch.cuda.synchronize"),
        "torch.cuda.Event.synchronize": lambda *_: gpu.waits("Event.synchronize"),
        "torch.cuda.Stream.synchronize": lambda *_: gpu.waits("Stream.synchronize"),
    }
    with ExitStack() as stack:
        for name, answer in answers.items():
            stack.enter_context(mock.patch(name, answer))
        stack.enter_context(torch.autograd.set_multithreading_enabled(False))  # C++ has no thread for this device
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        stack.enter_context(gpu)
        yield gpu


def _let_devices_be_named() -> None:
    """Let PyTorch's C++ change to device "cuda" and back, which does nothing.

    PyTorch does so itself in its CUDA build where the driver finds no device. Its CPU build has no driver at all and
    refuses the very name: so it is shown one, a table of functions that all return 0, hence without devices.
    """
    core = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libc10.so"))
    drivers = (ctypes.c_void_p * 2).in_dll(core, "_ZN3c104impl26device_guard_impl_registryE")
    if drivers[1] is not None:  # by torch's DeviceType: CPU, CUDA
        return
    zero = ctypes.CFUNCTYPE(ctypes.c_longlong)(lambda: 0)
    functions = (ctypes.c_void_p * 64)(*[ctypes.cast(zero, ctypes.c_void_p)] * 64)
    driver = ctypes.c_void_p(ctypes.addressof(functions))
    drivers[1] = ctypes.addressof(driver)
    torch._C._ensureCUDADeviceGuardSet()
