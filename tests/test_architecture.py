"""Who may import whom, in all files: the rooms of the house, circles, and what workers load."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from cases.registry import load_object
from tests.source_tree import SourceTree

ROOT = Path(__file__).parents[1]
TREE = SourceTree(ROOT)
MODULES = sorted(TREE.files)
PROGRAMS = tuple(sorted(name for name in MODULES if TREE.files[name].parent == ROOT))
LAYERS = (  # from the ground up; rooms of one storey never import each other
    ("cases",),
    ("runtime",),
    ("data_loading", "data_preprocessing", "nets"),
    ("inference",),
    ("training",),
    ("pretraining",),
    ("cli",),
    PROGRAMS,
    ("benchmarks",),
    ("scripts",),
    ("docs",),
)
STOREY = {room: number for number, rooms in enumerate(LAYERS) for room in rooms}
HEAVY = ("torch", "pytorch_lightning", "lightning_fabric", "monai", "nvidia.dali.plugin.pytorch")


def room_of(module: str) -> str:
    return module.partition(".")[0]


def heavy(name: str) -> bool:
    return any(name == top or name.startswith(f"{top}.") for top in HEAVY)


def calls_of_samples() -> list[str]:
    """Modules with a source: a class that is called with DALI's information on a sample."""
    found = []
    for module, tree in TREE.parsed.items():
        calls = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == "__call__"]
        annotations = [ast.unparse(a.annotation) for call in calls for a in call.args.args if a.annotation]
        if any(annotation.endswith("SampleInfo") for annotation in annotations):
            found.append(module)
    return found


def worker_side() -> list[str]:
    """Modules whose objects DALI's workers unpickle, or which those objects call."""
    patterns = ("data_loading/sources/*.py", "data_loading/augmentation/*.py", "pretraining/**/source*.py")
    patterns += ("pretraining/**/cpu.py",)
    paths = {path for pattern in patterns for path in ROOT.glob(pattern)}
    return sorted({name for name, path in TREE.files.items() if path in paths} | set(calls_of_samples()))


def test_every_file_lies_in_a_room() -> None:
    assert not sorted({room_of(module) for module in MODULES} - set(STOREY)), "a new room needs its place in LAYERS"


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module: str) -> None:
    room, storey = room_of(module), STOREY[room_of(module)]
    up = []
    for target, wanted in TREE.read_by(module):
        other = room_of(target)
        below = STOREY[other] < storey if room not in PROGRAMS else STOREY[other] <= storey
        if other != room and not below:
            up.append(f"{wanted.name}{' (by a string)' if wanted.lazy else ''}")
    allowed = ", ".join(other for number, rooms in enumerate(LAYERS) if number < storey for other in rooms)
    assert not up, f"{module} may import {allowed or 'nothing of ours'}, but imports {', '.join(up)}"


@pytest.mark.parametrize("module", MODULES)
def test_what_is_imported_of_ours_exists(module: str) -> None:
    unknown = [wanted.name for target, wanted in TREE.read_by(module) if target not in TREE.files]
    assert not unknown, f"{module} names {', '.join(unknown)}"


LAZY = sorted({wanted.name for module in MODULES for _, wanted in TREE.read_by(module) if wanted.lazy})


@pytest.mark.parametrize("name", LAZY)
def test_what_a_registry_names_by_a_string_is_there(name: str) -> None:
    module, _, attribute = name.rpartition(".")
    assert load_object(f"{module}:{attribute}") is not None


def test_no_files_import_each_other() -> None:
    circles = TREE.circles()
    assert not circles, "these import each other:\n" + "\n".join(circles)


@pytest.mark.parametrize("module", [m for m in MODULES if room_of(m) in ("cases", "data_preprocessing")])
def test_cases_and_preprocessing_know_no_torch(module: str) -> None:
    direct = [wanted.name for wanted in TREE.imports[module] if heavy(wanted.name)]
    chains = [chain for name, chain in TREE.loaded(module).items() if heavy(name)]
    assert not direct and not chains, f"{module} loads {', '.join(direct)}: {'; '.join(chains)}"


@pytest.mark.parametrize("module", worker_side())
def test_workers_load_neither_torch_nor_lightning_nor_monai(module: str) -> None:
    direct = [wanted.name for wanted in TREE.imports[module] if heavy(wanted.name)]
    chains = [chain for name, chain in TREE.loaded(module).items() if heavy(name)]
    assert not direct and not chains, f"every worker would load {', '.join(direct)}: {'; '.join(chains)}"


def test_every_source_is_on_the_worker_side() -> None:
    assert calls_of_samples(), "no class takes a SampleInfo: has it another name now?"
    assert {room_of(module) for module in worker_side()} >= {"data_loading", "pretraining"}


def test_main_loads_nothing_heavy_until_it_runs() -> None:
    """Workers import the program anew."""
    chains = [chain for name, chain in TREE.loaded("main").items() if heavy(name)]
    assert not chains, f"every worker would load {'; '.join(chains)}"


@pytest.mark.parametrize("module", [m for m in MODULES if room_of(m) == "nets"])
def test_networks_know_nothing_of_preprocessing(module: str) -> None:
    known = [wanted.name for wanted in TREE.imports[module] if wanted.name.startswith("data_preprocessing")]
    assert not known, f"{module} imports {', '.join(known)}"


@pytest.mark.parametrize("module", MODULES)
def test_nothing_is_unpickled_and_no_shell_is_started(module: str) -> None:
    forbidden = ("allow_pickle=True", "weights_only=False", "shell=True", "os.system(", "os.popen(", "pickle.load")
    text = TREE.files[module].read_text(encoding="utf-8")
    found = [word for word in forbidden if word in text]
    assert not found, f"{module} says {', '.join(found)}"
    for node in ast.walk(TREE.parsed[module]):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
            keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            assert keywords.get("weights_only") == "True", f"{module}:{node.lineno}: torch.load without weights_only"


ABOUT_SEVERAL_FILES = {  # tests without a source file of their name, and why
    "test_architecture": "all files",
    "docs/test_extending": "the files that docs/extending.md shows",
    "docs/test_readme": "README and docs",
    "test_main_brats": "whole runs of preprocess.py, main.py and evaluate.py",
    "test_pretended_gpu": "tests/pretended_gpu.py",
    "test_waiting": "training steps of every kind of learning",
    "test_main_genesis": "a whole run of main.py",
    "test_main_medicalnet": "a whole run of main.py",
    "test_semantic_commands": "whole runs of main.py and preprocess.py",
    "nets/weights/test_resnet_published": "published weights in nets/encoders/resnet.py",
    "data_loading/test_workers": "every source, in a worker",
    "pretraining/test_workers": "every source, in a worker",
    "pretraining/test_new_method": "a method from outside the tree",
}


def own_tests() -> list[str]:
    folder = ROOT / "tests"
    return [str(path.relative_to(folder).with_suffix("")) for path in sorted(folder.rglob("test_*.py"))]


@pytest.mark.parametrize("test", [name for name in own_tests() if not name.startswith("compat/")])
def test_tests_mirror_the_source(test: str) -> None:
    """tests/<package>/test_x.py is about <package>/x.py, or about the package <package>/x/ or <package>/ named x."""
    source = ROOT / Path(test).with_name(Path(test).name.removeprefix("test_"))
    has_source = source.with_suffix(".py").is_file() or source.is_dir() or source.parent.name == source.name
    if test in ABOUT_SEVERAL_FILES:
        assert not has_source, f"tests/{test}.py has a source file: take it off ABOUT_SEVERAL_FILES"
    else:
        assert has_source, f"tests/{test}.py: there is no {source.relative_to(ROOT)}.py, and no such package"


def test_the_reader_sees_what_it_must(tmp_path: Path) -> None:
    """Circles through functions and packages, chains to a library; types alone and strings are no imports."""
    files = {
        "rooms/__init__.py": "",
        "rooms/low.py": "def late():\n    from rooms import high\n",
        "rooms/high.py": "from rooms.low import late\nfrom . import side\n",
        "rooms/side.py": "import torch.nn\nimport typing\nif typing.TYPE_CHECKING:\n    import rooms.high\n",
        "rooms/table.py": 'ENTRIES = {"high": "rooms.high:late", "none": "rooms.low:nothing"}\n',
        "main.py": "import rooms.high\n\nif __name__ == '__main__':\n    import monai\n",
        "tests/test_it.py": "import torch\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    tree = SourceTree(tmp_path)
    assert tree.circles() == ["rooms.high -> rooms.low -> rooms.high"]
    loaded = tree.loaded("main")
    assert loaded["torch.nn"] == "main -> rooms.high -> rooms.side -> torch.nn"
    assert "rooms" in loaded and "monai" not in loaded and "rooms.high" not in tree.loaded("rooms.low")
    assert [(target, wanted.lazy) for target, wanted in tree.read_by("rooms.table")] == [
        ("rooms.high", True),
        ("rooms.low", True),
    ]
