"""Whether a provider of onnxruntime really starts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from wsisum_cli.models import session
from wsisum_cli.models.session import CPU, CUDA, available_providers, try_provider

needs_no_gpu = pytest.mark.skipif(session.nvidia_driver_found(), reason="this machine has an NVIDIA driver")


def test_the_trial_model_is_valid_onnx():
    model = onnx.load_from_string(session._convolution())
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == ["Conv"]


def test_the_cpu_starts():
    assert CPU in available_providers()
    assert try_provider(CPU) is None


@needs_no_gpu
@pytest.mark.skipif(CUDA not in available_providers(), reason="needs the GPU build of onnxruntime")
def test_cuda_that_is_listed_but_does_not_start_is_no_cuda():
    assert try_provider(CUDA)


def test_a_provider_that_was_not_built_says_so():
    assert "was built without it" in (try_provider("CoreMLExecutionProvider") or "")


def files_left_by(code: str, home: Path) -> list[str]:
    """What a new process leaves in an empty home folder, where nothing says that it is a test."""
    home.mkdir()
    hints = ("CI", "GITHUB_ACTIONS", "TF_BUILD", *session.NO_TELEMETRY, "XDG_CACHE_HOME")
    variables = {name: value for name, value in os.environ.items() if name not in hints}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**variables, "HOME": str(home)}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return sorted(path.name for path in home.rglob("*") if path.is_file())


def test_onnxruntime_sends_no_telemetry(tmp_path: Path):
    """It would leave an identifier of the machine, and a queue of what it is to send."""
    if not files_left_by("import onnxruntime", tmp_path / "plain"):
        pytest.skip("this build of onnxruntime has no telemetry")
    code = "from wsisum_cli.models.session import CPU, try_provider; assert try_provider(CPU) is None"
    assert files_left_by(code, tmp_path / "ours") == []


class Silent:
    """A session that falls back to the CPU, or computes something else."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def get_providers(self) -> list[str]:
        return [CPU]

    def run(self, *_: Any) -> list[np.ndarray]:
        return [np.zeros((1, 1, 2, 2), np.float32)]


def test_silent_fallback_and_wrong_numbers_are_noticed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(onnxruntime, "InferenceSession", Silent)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    assert "libraries do not load" in (try_provider(CUDA) or "")
    assert try_provider(CPU) == "it computes wrong numbers"
