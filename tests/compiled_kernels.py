"""Triton kernels compiled ahead of time, for which it takes no GPU; what the interpreter forgives, this does not.

::

    for code in compiled(kernel, {"x": "*bf16", "n": "i32"}, {"BLOCK": 1024}, divisible=["x", "n"]):
        assert code.spilled == 0
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TARGETS = (80, 90, 100)  # A100; H100, H200; B200
MULTIPLE = [["tt.divisibility", 16]]


@dataclass(frozen=True)
class Code:
    """A kernel for one target.

    Attributes:
        target: compute capability, such as 90.
        ptx: its assembly.
        registers: of a thread.
        spilled: bytes of a thread's stack, where registers do not suffice.
        shared: bytes of shared memory of a program.
        threads: of a program.
    """

    target: int
    ptx: str
    registers: int
    spilled: int
    shared: int
    threads: int

    def programs(self) -> int:
        """How many a multiprocessor holds at once, by registers, threads and shared memory."""
        each = -(-self.registers // 8) * 8 * self.threads
        shared = {80: 164, 90: 228, 100: 228}[self.target] * 1024 // (self.shared + 1024)
        return min(65536 // each, 2048 // self.threads, shared, 32)


def compiled(
    kernel: Any,
    types: Mapping[str, str],
    constants: Mapping[str, Any],
    *,
    divisible: Collection[str] = (),
    targets: Collection[int] = TARGETS,
    **options: int,
) -> Iterator[Code]:
    """The kernel's code for each target.

    Args:
        types: of its arguments, such as "*bf16", "i32", "fp32".
        constants: its compile-time arguments, and those that a launch would compile in: None, and sizes of 1.
        divisible: pointers and sizes that are multiples of 16, as a launch would find out.
        options: num_warps, num_stages.
    """
    import triton
    from triton.backends.compiler import GPUTarget

    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else types[name] for name in names}
    values = {(i,): constants[name] for i, name in enumerate(names) if name in constants}
    multiples = {(i,): MULTIPLE for i, name in enumerate(names) if name in divisible and name not in constants}
    for target in targets:
        source = triton.compiler.ASTSource(kernel, signature, values, multiples)
        made = triton.compile(source, target=GPUTarget("cuda", target, 32), options=options)
        registers, spilled = _resources(made.asm["cubin"])
        metadata = made.metadata
        yield Code(target, made.asm["ptx"], registers, spilled, metadata.shared, 32 * metadata.num_warps)


def _resources(cubin: bytes) -> tuple[int, int]:
    """Registers and bytes of stack of a thread."""
    import triton

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "kernel.cubin")
        file.write_bytes(cubin)
        program = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
        command = [str(program), "--dump-resource-usage", str(file)]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    registers, stack = re.findall(r"REG:(\d+) STACK:(\d+)", said)[0]
    return int(registers), int(stack)
