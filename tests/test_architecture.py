"""Who may import whom, where each dependency lives, and that --help stays fast."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import wsisum_cli

PACKAGE = Path(wsisum_cli.__file__).parent

#: Modules from the bottom up: each may import only those above it in this list.
ORDER = [
    *("errors", "card", "pyramid", "pixels", "jpeg", "dicom", "scanner", "damage", "tiff", "vendor", "slide"),
    *("tissue", "inference", "patch", "grid", "source", "features", "sampling", "selection", "container", "arrays"),
    *("attributes", "overview", "summary", "finding", "content", "comparison", "verify", "compress", "picture"),
    *("inspection", "outcome", "workers", "archive", "report", "run", "console", "cli", "__main__"),
]

#: Each third-party package, and the modules in which it lives.
HOMES = {
    "PIL": {"picture"},
    "cv2": {"pixels", "tissue"},
    "fsspec": {"summary"},
    "google_crc32c": {"arrays"},
    "h5py": {"features"},
    "imagecodecs": {"jpeg"},
    "numcodecs": {"arrays"},
    "onnxruntime": {"inference"},
    "openslide": {"vendor"},
    "rich": {"console"},
    "simplejpeg": {"jpeg"},
    "sklearn": {"sampling"},
    "threadpoolctl": {"sampling", "summary"},
    "tifffile": {"tiff", "scanner"},
    "typer": {"cli"},
    "zarr": {"arrays"},
}

#: What --help must not wait for.
HEAVY = {"numpy", "rich.progress", "zarr", "cv2", "onnxruntime", "tifffile", "sklearn", "openslide", "h5py", "torch"}


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} imports relatively"
            found.add(node.module or "")
            found |= {f"{node.module}.{alias.name}" for alias in node.names if node.module == "wsisum_cli"}
    return found


MODULES = {path.stem: imports(path) for path in sorted(PACKAGE.glob("*.py")) if path.stem != "__init__"}


def test_every_module_has_its_place():
    assert sorted(MODULES) == sorted(ORDER)


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_point_one_way(name: str):
    ours = {module.split(".")[1] for module in MODULES[name] if module.startswith("wsisum_cli.")} & set(ORDER)
    above = set(ORDER[: ORDER.index(name)])
    assert ours <= above, f"{name} imports {sorted(ours - above)}, which stand later in the order"


def test_each_dependency_lives_in_its_home():
    standard = sys.stdlib_module_names | {"wsisum_cli", "numpy", "__future__"}
    where: dict[str, set[str]] = {}
    for name, modules in MODULES.items():
        for top in {module.split(".")[0] for module in modules} - standard:
            where.setdefault(top, set()).add(name)
    assert where == {package: homes for package, homes in HOMES.items() if homes}


def test_nothing_imports_torch():
    assert not [name for name, modules in MODULES.items() if any(m.split(".")[0] == "torch" for m in modules)]


def test_init_exports_nothing_but_the_version():
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    assert not [node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]


def test_help_loads_nothing_heavy():
    script = "import sys, wsisum_cli.cli; print('\\n'.join(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert not HEAVY & set(loaded)


def test_modules_stay_small():
    too_long = {path.name for path in PACKAGE.glob("*.py") if len(path.read_text().splitlines()) > 500}
    assert not too_long
