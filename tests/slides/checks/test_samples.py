"""Codecs are judged by the pixels that come out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from wsisum_cli.slides.checks import samples
from wsisum_cli.slides.checks.samples import CODECS, RARE, READERS, sample, try_codec, try_reader


@pytest.mark.parametrize(
    ("decode", "why"),
    [
        (lambda: sample()[:16], "expected (32, 32, 3)"),
        (lambda: 255 - sample(), "off by"),
        (lambda: sample().astype(np.float32), "float32"),
    ],
)
def test_wrong_pixels_are_no_success(monkeypatch: pytest.MonkeyPatch, decode: Callable[[], np.ndarray], why: str):
    monkeypatch.setattr(samples, "CODECS", {"odd": decode})
    assert why in (try_codec("odd") or "")


def test_rare_codecs_are_codecs():
    assert set(CODECS) > RARE


def test_all_readers_are_at_hand_here():
    assert {name: try_reader(name) for name in READERS} == dict.fromkeys(READERS)
