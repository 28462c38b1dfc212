from __future__ import annotations

import os
from pathlib import Path

import pytest

SHARED = Path(__file__).parents[1].parent / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real slides, features and tiles, which are no part of the repository."""
    if not SHARED.is_dir():
        if os.environ.get("CI") == "true":
            pytest.fail("the folder of shared test data is missing")
        pytest.skip("needs the folder of shared test data")
    return SHARED
