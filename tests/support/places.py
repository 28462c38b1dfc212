"""Where the project and its files lie."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
MODELS = ROOT / "models"
DATA = ROOT / "tests" / "data"
SUPPORT = ROOT / "tests" / "support"
SHARED = ROOT.parent / "shared"
SCHEMA: dict[str, Any] = json.loads((DOCS / "summary.schema.json").read_text())
