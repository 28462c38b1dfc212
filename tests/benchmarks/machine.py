"""What a benchmark ran on: processor, memory, and versions of what was compared."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

from readers import RIVALS, installed

from wsisum_cli.commands.options import cores

LIBRARIES = ("numpy", "onnxruntime-gpu", "onnxruntime", "simplejpeg", "imagecodecs", "opencv-python-headless")
SIMD = ("avx512_bf16", "avx512_vnni", "avx512f", "avx2", "sse4_2", "sve", "asimd")  # the first found of each kind


def describe_machine() -> list[tuple[str, str]]:
    """Rows of a table: what, and which."""
    return [
        ("processor", f"{processor()}, {cores()} cores"),
        ("SIMD", ", ".join(simd()) or "unknown"),
        ("memory", f"{memory() / 2**30:.0f} GiB"),
        ("system", f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"),
        ("libraries", ", ".join(f"{name} {version}" for name in LIBRARIES if (version := installed(name)))),
        ("rivals", ", ".join(f"{rival.name} {rival.version or '(not installed)'}" for rival in RIVALS)),
    ]


def processor() -> str:
    found = re.search(r"model name\s*:\s*(.+)", cpu_information())
    return found[1].strip() if found else platform.processor() or platform.machine()


def simd() -> list[str]:
    found = re.search(r"(?:flags|Features)\s*:\s*(.+)", cpu_information())
    flags = set(found[1].split()) if found else set()
    return [name for name in SIMD if name in flags]


def cpu_information() -> str:
    path = Path("/proc/cpuinfo")
    return path.read_text() if path.is_file() else ""


def memory() -> int:
    """Bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
