"""Who may import whom, where each dependency lives, and that --help stays fast."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import wsisum_cli

PACKAGE = Path(wsisum_cli.__file__).parent


def names_of(*rows: str) -> list[str]:
    return " ".join(rows).split()


#: Modules from the bottom up: each may import only those above it in this list.
ORDER = names_of(
    "errors card pyramid pixels jpeg dicom scanner damage tiff vendor slide",
    "tissue artefact source session metadata inference summarizer slide_encoder trial models",
    "patch grid guard feature_file features sampling embedding choice",
    "similarity prefixes facility swaps weights rarity tuning scoring levels",
    "population attempts baselines selection budget quality guarantee draws verdict",
    "cohort evaluation probe",
    "container arrays attributes overview draft summary finding kept appraisal content comparison",
    "verify provenance trim job keeping compress plot sweep extract product inspection",
    "colours labels page caption scale tint canvas legend picture heatmap panels rivals",
    "outcome workers archive report run console models_cli inspect_cli lookup trim_cli cli __main__",
)

#: The same for wsisum_cli/training, all of which may import what stands above `console`.
TRAINING = names_of(
    "export tiles augment symmetry network curves checkpoint loop encoder teaching data teachers",
    "targets interpolation masked_autoencoder masking start summarizer regions",
    "region_encoder prototypes distillation slide_graph slide_encoder published wsisum",
    "foundation arms abmil cross_validation charts evaluation_report cli evaluate_cli",
)

#: Each third-party package, and the modules in which it lives.
HOMES = {
    "PIL": {"canvas"},
    "cv2": {"pixels", "tissue", "artefact", "training.augment"},
    "fsspec": {"summary"},
    "google_crc32c": {"arrays"},
    "h5py": {"feature_file"},
    "imagecodecs": {"jpeg"},
    "matplotlib": {"plot"},
    "numcodecs": {"arrays"},
    "onnx": {"training.export"},
    "onnxruntime": {"session"},
    "openslide": {"vendor"},
    "rich": {"console"},
    "scipy": {"weights", "training.prototypes"},
    "simplejpeg": {"jpeg"},
    "sklearn": {"sampling", "probe"},
    "threadpoolctl": {"sampling", "draft"},
    "tifffile": {"tiff", "scanner"},
    "typer": {"cli", "inspect_cli", "models_cli", "trim_cli", "training.cli", "training.evaluate_cli"},
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


def modules(folder: Path) -> dict[str, set[str]]:
    return {path.stem: imports(path) for path in sorted(folder.glob("*.py")) if path.stem != "__init__"}


MODULES = modules(PACKAGE)
TRAINING_MODULES = modules(PACKAGE / "training")


def test_every_module_has_its_place():
    assert sorted(MODULES) == sorted(ORDER)
    assert sorted(TRAINING_MODULES) == sorted(TRAINING)


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_point_one_way(name: str):
    ours = {module.split(".")[1] for module in MODULES[name] if module.startswith("wsisum_cli.")} & set(ORDER)
    above = set(ORDER[: ORDER.index(name)])
    assert ours <= above, f"{name} imports {sorted(ours - above)}, which stand later in the order"


@pytest.mark.parametrize("name", sorted(TRAINING_MODULES))
def test_imports_of_the_training_point_one_way(name: str):
    found = [module.split(".") for module in TRAINING_MODULES[name]]
    ours = {parts[2] for parts in found if parts[:2] == ["wsisum_cli", "training"] and len(parts) > 2} & set(TRAINING)
    above = set(TRAINING[: TRAINING.index(name)])
    assert ours <= above, f"training.{name} imports {sorted(ours - above)}, which stand later in the order"
    flat = {parts[1] for parts in found if parts[0] == "wsisum_cli" and len(parts) > 1} & set(ORDER)
    below = set(ORDER[: ORDER.index("console")]) | ({"models_cli"} if name in ("cli", "evaluate_cli") else set())
    assert flat <= below


def test_each_dependency_lives_in_its_home():
    standard = sys.stdlib_module_names | {"wsisum_cli", "numpy", "torch", "__future__"}
    where: dict[str, set[str]] = {}
    named = MODULES | {f"training.{name}": found for name, found in TRAINING_MODULES.items()}
    for name, found in named.items():
        for top in {module.split(".")[0] for module in found} - standard:
            where.setdefault(top, set()).add(name)
    assert where == HOMES


def test_torch_lives_in_the_training_alone():
    assert not [name for name, found in MODULES.items() if any(module.split(".")[0] == "torch" for module in found)]


def test_only_commands_import_the_training():
    importers = {
        name for name, found in MODULES.items() if any(module.startswith("wsisum_cli.training") for module in found)
    }
    assert importers <= {"cli", "models_cli"}


def test_init_exports_nothing_but_the_version():
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    assert not [node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]


def test_help_loads_nothing_heavy():
    script = "import sys, wsisum_cli.cli; print('\\n'.join(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert not HEAVY & set(loaded)


def test_modules_stay_small():
    too_long = {path.name for path in PACKAGE.rglob("*.py") if len(path.read_text().splitlines()) > 500}
    assert not too_long
