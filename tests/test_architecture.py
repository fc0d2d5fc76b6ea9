"""Who may import whom."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {"commands", "data_preprocessing", "data_loading", "nets", "training", "inference", "scripts", "settings"}
ALLOWED = {
    "data_preprocessing": {"data_preprocessing"},
    "nets": {"nets", "data_preprocessing"},
    "data_loading": {"data_loading", "data_preprocessing"},
    "inference": {"inference", "data_preprocessing"},
    "training": {"training", "inference", "data_loading", "nets", "data_preprocessing"},
}


def imported_modules(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    return names | {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_packages_import_only_what_lies_below_them(package):
    for path in sorted((ROOT / package).glob("*.py")):
        ours = {name for name in imported_modules(path) if name.split(".")[0] in PACKAGES}
        beyond = {name for name in ours if name.split(".")[0] not in ALLOWED[package]}
        assert not beyond, f"{path.relative_to(ROOT)} imports {sorted(beyond)}"


def test_networks_know_the_plan_and_nothing_else_of_preprocessing():
    for path in sorted((ROOT / "nets").glob("*.py")):
        preprocessing = {name for name in imported_modules(path) if name.startswith("data_preprocessing")}
        assert preprocessing <= {"cases.plan"}, f"{path.name} imports {sorted(preprocessing)}"


def test_main_imports_the_settings_alone_until_it_runs():
    tree = ast.parse((ROOT / "main.py").read_text(encoding="utf-8"))
    names = {node.module for node in tree.body if isinstance(node, ast.ImportFrom)}
    assert names == {"__future__", "collections.abc", "settings"}


def test_settings_import_nothing_of_ours():
    assert not {name for name in imported_modules(ROOT / "settings.py") if name.split(".")[0] in PACKAGES}


def test_nothing_is_unpickled_and_no_shell_is_started():
    forbidden = ("allow_pickle=True", "weights_only=False", "shell=True", "os.system(", "pickle.load")
    for path in [*ROOT.glob("*.py"), *(p for package in PACKAGES for p in (ROOT / package).glob("*.py"))]:
        text = path.read_text(encoding="utf-8")
        assert not [word for word in forbidden if word in text], path
