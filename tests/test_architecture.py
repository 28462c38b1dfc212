"""Who may import whom, where each dependency lives, and that --help stays fast."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import wsisum_cli

PACKAGE = Path(wsisum_cli.__file__).parent

#: From the ground up: a wing imports only from those before it.
WINGS = (
    *("errors", "slides", "models", "tissue", "features", "selection", "quality", "summary", "verification"),
    *("figures", "exports", "pipeline", "archive", "training", "evaluation", "commands", "__main__"),
)
MOST_ROOMS = 14

#: Each third-party package, and the modules in which it lives.
HOMES = {
    "PIL": {"figures.canvas"},
    "anndata": {"exports.spatialdata"},
    "cv2": {
        *(
            "slides.pixels",
            "tissue.artefacts",
            "tissue.coverage",
            "tissue.faint",
            "tissue.given_mask",
            "tissue.glass",
            "tissue.mask",
        ),
        *("archive.likeness.registration", "training.encoder.augment"),
    },
    "distributed": {"archive.engines.cluster"},
    "geopandas": {"exports.spatialdata"},
    "google_crc32c": {"summary.chunks"},
    "h5py": {"features.h5"},
    "imagecodecs": {"slides.checks.samples", "slides.dicom.decode", "slides.jpeg", "summary.stored.jpeg_xl"},
    "jinja2": {"figures.pages.render"},
    "markupsafe": {"figures.pages.render"},
    "matplotlib": {"figures.plot"},
    "minisign": {"summary.signature.minisign"},
    "numcodecs": {"summary.chunks"},
    "obstore": {"slides.remote.store"},
    "onnx": {"training.export"},
    "onnxruntime": {"models.session"},
    "openslide": {"slides.openslide"},
    "pandas": {"exports.spatialdata"},
    "pydicom": {
        "slides.dicom.elements",
        "slides.dicom.frames",
        "slides.dicom.instance",
        "slides.dicom.pyramid",
        "slides.dicom.series",
    },
    "pylibCZIrw": {"slides.czi"},
    "rich": {"commands.console", "commands.progress.shown", "commands.upkeep.tables", "commands.verdicts"},
    "scipy": {"quality.likeness", "selection.weights", "selection.suspects", "training.slide_encoder.prototypes"},
    "shapely": {"exports.spatialdata"},
    "simplejpeg": {"slides.jpeg"},
    "sklearn": {"selection.candidates", "evaluation.probe"},
    "spatialdata": {"exports.spatialdata"},
    "threadpoolctl": {"features.vectors"},
    "tifffile": {"slides.checks.samples", "slides.tiff", "slides.header", "slides.layout"},
    "zarr": {"summary.arrays"},
}

#: What --help must not wait for.
HEAVY = {
    "numpy",
    "rich.progress",
    "zarr",
    "cv2",
    "onnxruntime",
    "tifffile",
    "sklearn",
    "openslide",
    "h5py",
    "torch",
    "pydicom",
    "jinja2",
}


def imports(path: Path) -> set[str]:
    """Every module that a file may mean, with or without the name imported from it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} imports relatively"
            found |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


ROOMS = {name_of(path): imports(path) for path in sorted(PACKAGE.rglob("*.py")) if path.stem != "__init__"}


def ours(name: str) -> set[str]:
    return {module.removeprefix("wsisum_cli.") for module in ROOMS[name]} & set(ROOMS)


def test_every_room_is_in_a_wing():
    assert {name.split(".")[0] for name in ROOMS} == set(WINGS)
    top = [path for path in PACKAGE.iterdir() if not path.name.startswith("__") and path.name != "py.typed"]
    assert len(top) <= 16


@pytest.mark.parametrize("folder", sorted({path.parent for path in PACKAGE.rglob("*.py")} - {PACKAGE}), ids=name_of)
def test_no_wing_has_too_many_rooms(folder: Path):
    assert len([path for path in folder.glob("*.py") if path.stem != "__init__"]) <= MOST_ROOMS
    assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text()))


@pytest.mark.parametrize("name", sorted(ROOMS))
def test_wings_import_from_those_below_only(name: str):
    wing = WINGS.index(name.split(".")[0])
    assert {other for other in ours(name) if WINGS.index(other.split(".")[0]) > wing} == set()


def test_no_circle_of_imports():
    TopologicalSorter({name: ours(name) for name in ROOMS}).prepare()  # raises CycleError


def test_each_dependency_lives_in_its_home():
    standard = sys.stdlib_module_names | {"wsisum_cli", "numpy", "torch", "__future__"}
    where: dict[str, set[str]] = {}
    for name, found in ROOMS.items():
        for top in {module.split(".")[0] for module in found} - standard:
            where.setdefault(top, set()).add(name)
    assert {name.split(".")[0] for name in where.pop("typer")} == {"commands"}
    del where["pydantic"], where["pydantic_core"]  # data with a shape has a type, in every wing
    assert where == HOMES


def test_torch_lives_in_training_and_evaluation_alone():
    importers = {name for name, found in ROOMS.items() if any(module.split(".")[0] == "torch" for module in found)}
    assert {name.split(".")[0] for name in importers} <= {"training", "evaluation"}


def test_wings_export_nothing_but_the_public_door():
    doors = {PACKAGE / "__init__.py", PACKAGE / "summary" / "__init__.py"}
    for path in PACKAGE.rglob("__init__.py"):
        body = ast.parse(path.read_text()).body[1:]
        assert path in doors or not body, path


def test_the_public_door_opens_late():
    script = "import sys, wsisum_cli; print(*sys.modules); wsisum_cli.open_summary"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert not HEAVY & set(loaded)


def test_help_loads_nothing_heavy():
    script = "import sys, wsisum_cli.commands.main; print('\\n'.join(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert not HEAVY & set(loaded)


def test_modules_stay_small():
    assert not {path.name for path in PACKAGE.rglob("*.py") if len(path.read_text().splitlines()) > 500}
