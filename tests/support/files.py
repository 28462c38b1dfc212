"""Small files that stand for slides."""

from __future__ import annotations

from pathlib import Path


def put(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path
