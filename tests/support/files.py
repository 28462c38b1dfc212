"""Small files that stand for slides."""

from __future__ import annotations

from pathlib import Path


def put(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def dicom(series: str, flavour: str = "VOLUME") -> bytes:
    """The head of a DICOM file, as far as sources look."""

    def element(tag: bytes, vr: bytes, value: bytes) -> bytes:
        value += b" " * (len(value) % 2)
        return tag + vr + len(value).to_bytes(2, "little") + value

    kind = element(b"\x08\x00\x08\x00", b"CS", f"ORIGINAL\\PRIMARY\\{flavour}\\NONE".encode())
    return b"\0" * 128 + b"DICM" + kind + element(b"\x20\x00\x0e\x00", b"UI", series.encode())
