"""What belongs to a slide on disk, and what identifies it."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from dicoms import Slide, write_level
from files import put

from wsisum_cli.slides.source import BLOCK, Source, companion, find_source, output_stem, sha256_of


def test_most_slides_are_one_file(tmp_path: Path):
    slide = put(tmp_path / "a.svs", b"abc")
    put(tmp_path / "a" / "unrelated.dat", b"x")
    source = find_source(slide)
    assert source.files == (slide,)
    assert source.bytes == 3
    assert source.sha256 == hashlib.sha256(b"abc").hexdigest() == sha256_of(slide)
    assert source.modified == slide.stat().st_mtime_ns


def test_an_mrxs_is_counted_with_its_folder(tmp_path: Path):
    slide = put(tmp_path / "B 12.v2.MRXS", b"head")
    second = put(tmp_path / "B 12.v2" / "sub" / "Data0001.dat", b"two")
    first = put(tmp_path / "B 12.v2" / "Data0000.dat", b"one")
    put(tmp_path / "other" / "Data0000.dat", b"x")
    source = find_source(slide)
    assert source.files == (slide, first, second)
    assert source.bytes == 10
    assert source.sha256 == hashlib.sha256(b"headonetwo").hexdigest()
    os.utime(second, ns=(0, 2**62))
    assert source.modified == second.stat().st_mtime_ns
    assert companion(slide) == tmp_path / "B 12.v2"


def test_an_mrxs_without_its_folder_stands_alone(tmp_path: Path):
    slide = put(tmp_path / "a.mrxs", b"head")
    assert companion(slide) is None
    assert find_source(slide).files == (slide,)
    put(tmp_path / "b", b"a file named like a companion folder")
    assert companion(put(tmp_path / "b.mrxs", b"head")) is None


def test_a_vms_is_counted_with_the_images_it_names(tmp_path: Path):
    text = (
        "[Virtual Microscope Specimen]\r\nNoLayers=1\r\nImageFile=a.jpg\r\nImageFile(1,0)=a(1,0).jpg\r\n"
        "MapFile=a_map2.jpg\r\nMacroImage=gone.jpg\r\nOptimisationFile=\r\nSecret=../outside.jpg\r\nSelf=a.vms\r\n"
    )
    slide = put(tmp_path / "slides" / "a.vms", text.encode())
    put(tmp_path / "outside.jpg", b"never")
    images = [put(slide.with_name(name), name.encode()) for name in ("a(1,0).jpg", "a.jpg", "a_map2.jpg")]
    put(slide.with_name("unnamed.jpg"), b"x")
    assert find_source(slide).files == (slide, *images)


def test_a_vms_of_any_bytes_is_no_obstacle(tmp_path: Path):
    slide = put(tmp_path / "a.VMU", b"\xff\xfe=\0\xff\nImageFile=" + b"x" * 5000)
    assert find_source(slide).files == (slide,)


def test_the_levels_of_a_dicom_slide_are_one_source_from_whichever_file(tmp_path: Path):
    pixels = np.zeros((64, 64, 3), np.uint8)
    first, second = (write_level(tmp_path / name, pixels[: 64 // n]) for n, name in ((2, "1.dcm"), (1, "2.dcm")))
    other = write_level(tmp_path / "other.dcm", pixels, Slide("other"))
    label = write_level(tmp_path / "label.dcm", pixels, flavour="LABEL")
    for path in (first, second, label):
        source = find_source(path)
        assert source.files == (first, second)
        assert source.path == first
        assert source.sha256 == hashlib.sha256(first.read_bytes() + second.read_bytes()).hexdigest()
    assert find_source(other).files == (other,)


@pytest.mark.parametrize(
    ("name", "stem"),
    [("a.svs", "a"), ("a.ome.tiff", "a"), ("1.2.840.99", "1.2.840.99"), ("1.2.840.99.dcm", "1.2.840.99"), ("I1", "I1")],
)
def test_what_outputs_are_called(name: str, stem: str):
    assert output_stem(Path("folder", name)) == Path("folder", stem)


def test_what_cannot_be_read_stands_alone(tmp_path: Path):
    for name in ("gone.dcm", "gone.vms", "gone.mrxs"):
        (tmp_path / name).symlink_to(tmp_path / "nowhere")
        assert find_source(tmp_path / name).files == (tmp_path / name,)


def test_the_hash_covers_every_byte_and_is_that_of_the_file_as_it_is(tmp_path: Path):
    data = bytearray(os.urandom(1024) * (BLOCK // 1024) + b"tail")
    slide = put(tmp_path / "a.svs", bytes(data))
    source = find_source(slide)
    assert source.sha256 == hashlib.sha256(data).hexdigest()
    data[-1] ^= 1
    slide.write_bytes(data)
    assert source.sha256 == find_source(slide).sha256 == hashlib.sha256(data).hexdigest()


def test_files_that_stay_as_they_are_are_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source = find_source(put(tmp_path / "a.svs", b"abc"))
    first = source.sha256
    monkeypatch.setattr("wsisum_cli.slides.source.hash_files", lambda paths: pytest.fail("hashed twice"))
    assert source.sha256 == first


def test_a_file_that_is_gone_is_an_os_error(tmp_path: Path):
    gone = tmp_path / "gone.svs"
    for look in (lambda: Source(gone, (gone,)).bytes, lambda: sha256_of(gone), lambda: find_source(gone).modified):
        with pytest.raises(FileNotFoundError):
            look()
