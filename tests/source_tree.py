"""The source files and who imports whom, read without running anything."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

NOT_SOURCE = {"tests", "notebooks"}
LAZY = re.compile(r"[a-z_]\w*(\.\w+)*:[A-Za-z_]\w*")  # "module:object", which a registry imports when it is asked for


@dataclass(frozen=True)
class Import:
    """A name that a file imports, as it stands there: a module's, or "module.object".

    Attributes:
        deferred: in a function, or where the file runs as a program: not done when the file is imported.
        lazy: named by a string for a registry.
    """

    name: str
    deferred: bool = False
    lazy: bool = False


class _Reader(ast.NodeVisitor):
    """Collects imports; those under ``if TYPE_CHECKING`` are none."""

    def __init__(self, package: str) -> None:
        self.package, self.found, self.deferred = package, list[Import](), False

    def visit_Import(self, node: ast.Import) -> None:
        self.found += [Import(alias.name, self.deferred) for alias in node.names]

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        base = node.module or ""
        if node.level:
            parts = self.package.split(".")
            base = ".".join([*parts[: len(parts) + 1 - node.level], *filter(None, [node.module])])
        self.found += [Import(f"{base}.{alias.name}", self.deferred) for alias in node.names]

    def visit_If(self, node: ast.If) -> None:
        test = ast.unparse(node.test)
        if test.endswith("TYPE_CHECKING"):
            for child in node.orelse:
                self.visit(child)
        elif test.startswith("__name__ =="):
            self._later(node)
        else:
            self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._later(node)

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str) and LAZY.fullmatch(node.value):
            self.found.append(Import(node.value.replace(":", "."), deferred=True, lazy=True))

    def _later(self, node: ast.AST) -> None:
        before, self.deferred = self.deferred, True
        self.generic_visit(node)
        self.deferred = before


@dataclass(frozen=True)
class SourceTree:
    """All source files below a folder, by the names of their modules."""

    root: Path

    @cached_property
    def files(self) -> dict[str, Path]:
        found = {}
        for path in sorted(self.root.rglob("*.py")):
            parts = path.relative_to(self.root).with_suffix("").parts
            if parts[0] not in NOT_SOURCE and not any(part.startswith(".") for part in parts):
                found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
        return found

    @cached_property
    def packages(self) -> frozenset[str]:
        """The top of every module's name, programs in the root among them."""
        return frozenset(name.partition(".")[0] for name in self.files)

    @cached_property
    def parsed(self) -> dict[str, ast.Module]:
        return {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in self.files.items()}

    @cached_property
    def imports(self) -> dict[str, tuple[Import, ...]]:
        found = {}
        for name, tree in self.parsed.items():
            package = name if self.files[name].name == "__init__.py" else name.rpartition(".")[0]
            reader = _Reader(package)
            reader.visit(tree)
            found[name] = tuple(reader.found)
        return found

    def ours(self, wanted: Import) -> str | None:
        """The module of ours that an import reads; None for other people's. An unknown one of ours stays as it is."""
        name = wanted.name
        if name.partition(".")[0] not in self.packages:
            return None
        return name if name in self.files else name.rpartition(".")[0] or name

    def read_by(self, module: str) -> Iterator[tuple[str, Import]]:
        """The modules of ours that one imports, without itself."""
        for wanted in self.imports[module]:
            target = self.ours(wanted)
            if target is not None and target != module:
                yield target, wanted

    def circles(self) -> list[str]:
        """Every group of files that import each other, wherever the imports stand, as one way around."""
        graph = {
            module: {target for target, wanted in self.read_by(module) if not wanted.lazy and target in self.files}
            for module in self.files
        }
        reached = {module: _reachable(graph, module) for module in graph}
        groups = {frozenset(m for m in reached[module] if module in reached[m]) for module in graph}
        return [_way_around(graph, group) for group in sorted(groups, key=sorted) if group]

    def loaded(self, module: str) -> dict[str, str]:
        """What importing a module loads: names, other people's too, and the chain of imports that leads there.

        A package is imported with each of its modules.
        """
        chains = {module: module}
        queue = [module]
        while queue:
            current = queue.pop(0)
            parents = [current.rsplit(".", level)[0] for level in range(1, current.count(".") + 1)]
            names = [parent for parent in parents if parent in self.files]
            for wanted in self.imports[current]:
                if not wanted.deferred:
                    names.append(self.ours(wanted) or wanted.name)
            for name in names:
                if name not in chains:
                    chains[name] = f"{chains[current]} -> {name}"
                    if name in self.files:
                        queue.append(name)
        return chains


def _reachable(graph: Mapping[str, set[str]], start: str) -> set[str]:
    found: set[str] = set()
    queue = list(graph[start])
    while queue:
        module = queue.pop()
        if module not in found:
            found.add(module)
            queue += graph[module]
    return found


def _way_around(graph: Mapping[str, set[str]], group: frozenset[str]) -> str:
    """The shortest circle through the group's first file."""
    first = min(group)
    ways = [[first]]
    while ways:
        way = ways.pop(0)
        for target in sorted(graph[way[-1]] & group):
            if target == first:
                return " -> ".join([*way, first])
            if target not in way:
                ways.append([*way, target])
    raise AssertionError(f"{sorted(group)} hold no circle")
