"""All checks of a machine, in the order in which a person should read them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from wsisum_cli import __version__
from wsisum_cli.archive.health.check import Apart, Check, check
from wsisum_cli.archive.health.machine import check_machine
from wsisum_cli.archive.health.space import check_output
from wsisum_cli.errors import WsisumError
from wsisum_cli.models.registry import Model, models_at_hand, verify_model
from wsisum_cli.models.session import CPU, CUDA, available_providers, nvidia_driver_found, try_provider
from wsisum_cli.slides.checks.samples import CODECS, RARE, READERS, try_codec, try_reader

#: Libraries whose versions decide what comes out, and whether it works.
LIBRARIES = (
    *("numpy", "zarr", "numcodecs", "imagecodecs", "tifffile", "simplejpeg", "opencv-python-headless", "pillow"),
    *("pydicom", "openslide-python", "openslide-bin", "h5py", "scikit-learn", "scipy", "pydantic", "obstore"),
)
RUNTIMES = ("onnxruntime", "onnxruntime-gpu")
EXTRAS = {"pylibCZIrw": "czi", "torch": "train", "spatialdata": "spatialdata", "boto3": "aws"}
AGAIN = "install the package again (pip install --force-reinstall wsisum)"
CUDA_ADVICE = "install CUDA's libraries (pip install 'onnxruntime-gpu[cuda,cudnn]'), or use --device cpu"


def check_all(models: Path, output: Path | None) -> Iterator[Check]:
    """`models` is the user's folder of models; `output`, where it is not None, is where summaries will go."""
    yield from check_versions()
    with Apart() as apart:
        yield from check_readers(apart)
        yield from check_codecs(apart)
        yield from check_providers(apart)
    yield from check_models(models)
    yield from check_machine()
    if output is not None:
        yield from check_output(output)


def installed(package: str) -> str | None:
    """The version of an installed package; None where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def check_versions() -> Iterator[Check]:
    python = ".".join(map(str, sys.version_info[:3]))
    yield Check(area="versions", name="wsisum", state="ok", found=f"{__version__} on Python {python}")
    for package in LIBRARIES:
        found = installed(package)
        why = None if found is not None else "not installed under this name"
        # conda calls some packages by other names; the checks of readers and codecs say what is really missing.
        yield check("versions", package, found or "", why, "nothing, where the checks below are ok", "warning")
    runtimes = {name: found for name in RUNTIMES if (found := installed(name)) is not None}
    words = " and ".join(f"{name} {found}" for name, found in runtimes.items())
    both = f"{words} are both installed and overwrite each other" if len(runtimes) > 1 else None
    missing = None if runtimes else "not installed"
    advice = "pip uninstall both, then install the one that you need" if both else AGAIN
    yield check("versions", "onnxruntime", words, both or missing, advice)
    extras = [f"{name} {installed(name) or 'no'}" for name in EXTRAS]
    yield Check(area="versions", name="extras", state="ok", found=", ".join(extras))


def check_readers(apart: Apart) -> Iterator[Check]:
    for name, (_, extra) in READERS.items():
        why = apart(try_reader, name)
        if why is not None and extra and "ModuleNotFoundError" in why:
            found = f"not installed; slides of this kind need it: pip install 'wsisum[{extra}]'"
            yield Check(area="readers", name=name, state="ok", found=found)
            continue
        yield check("readers", name, "works", why, AGAIN)


def check_codecs(apart: Apart) -> Iterator[Check]:
    for name in CODECS:
        why = apart(try_codec, name)
        advice = "install a full imagecodecs (pip install --force-reinstall imagecodecs)"
        yield check("codecs", name, "decodes its sample", why, advice, "warning" if name in RARE else "problem")


def check_providers(apart: Apart) -> Iterator[Check]:
    yield check("models", "CPU", "starts", apart(try_provider, CPU), AGAIN)
    if not nvidia_driver_found():
        yield Check(area="models", name="CUDA", state="ok", found="not used: no NVIDIA driver")
        return
    offered = CUDA in available_providers()
    advice = CUDA_ADVICE if offered else "install onnxruntime-gpu in place of onnxruntime, or use --device cpu"
    yield check("models", "CUDA", "starts", apart(try_provider, CUDA), advice, "warning")


def check_models(folder: Path) -> Iterator[Check]:
    for model in models_at_hand((folder,)):
        yield check_model(model)


def check_model(model: Model) -> Check:
    try:
        problems = [problem["message"] for problem in verify_model(model, "cpu")]
    except (WsisumError, OSError) as error:
        problems = [str(error)]
    found, _, advice = (problems[0] if problems else "").rpartition("; ")
    why = (found or advice).removeprefix(f"{model.name}: ") if problems else None
    return check("models", model.name, f"{model.where}, intact and runs", why, advice if found else AGAIN)
