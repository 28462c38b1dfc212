"""XML in headers is parsed only where it is as small and as plain as headers are."""

from __future__ import annotations

import os
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import tifffile

from wsisum_cli.errors import SlideError
from wsisum_cli.slides.checks import xml_text
from wsisum_cli.slides.checks.xml_text import check_description, parse_xml
from wsisum_cli.slides.slide import open_pyramid

PAGES = [(64, 64), (32, 32)]
OME = '<OME><Image><Pixels ID="P:0" SizeX="64" SizeY="64" SizeC="3" {}>{}</Pixels></Image></OME>'
SCN = "<scn><collection><image><pixels>{}</pixels></image></collection></scn>"
AXIS = "<Value><Modulo><ModuloAlongZ {}/></Modulo></Value>"
MODULO = f"<OME><StructuredAnnotations><A>{AXIS}</A></StructuredAnnotations></OME>"

#: What makes lists as long as it says: by name.
HUGE = {
    "planes": OME.format('SizeZ="2000000000" SizeT="1"', "<TiffData/>"),
    "a number written as characters": OME.format('SizeZ="&#50;000000000" SizeT="1"', "<TiffData/>"),
    "behind a bracket in a name": OME.format('Name="a>b" SizeZ="2000000000" SizeT="1"', "<TiffData/>"),
    "below zero, twice": OME.format('SizeZ="-2000000000" SizeT="-1"', "<TiffData/>"),
    "one plane counted often": OME.format('SizeZ="1" SizeT="1"', '<TiffData IFD="0" PlaneCount="2000000000"/>'),
    "the same, in an older version": OME.format('SizeZ="1" SizeT="1"', '<TiffData NumPlanes="2000000000"/>'),
    "all pages again and again": OME.format('SizeZ="1" SizeT="1"', 20_001 * "<TiffData/>"),
    "px": OME.format('SizeZ="1" SizeT="1"', "<TiffData/>").replace('"64"', '"2000000000"'),
    "many images": "<OME>" + 300 * OME.format('SizeZ="100" SizeT="1"', "")[5:-6] + "</OME>",
    "steps of an axis": MODULO.format('Start="0" End="2e9" Step="1"'),
    "channels of Leica": SCN.format('<dimension r="0" c="2000000000" ifd="0"/>'),
    "channels and depths of Leica": SCN.format('<dimension c="200" ifd="0"/><dimension z="200" ifd="0"/>'),
}


@pytest.mark.parametrize("name", HUGE)
def test_more_planes_than_files_hold_are_refused(tmp_path: Path, name: str):
    with pytest.raises(SlideError, match=r"a\.tif: damaged XML in its header, it tells of \d+ planes"):
        check_description(HUGE[name], PAGES, tmp_path / "a.tif")


def test_what_slides_say_passes(tmp_path: Path):
    path = tmp_path / "a.tif"
    for text in (
        "",
        "Aperio Image|MPP = 0.5",
        "<no xml",
        OME.format('SizeZ="100" SizeT="1"', "<TiffData/>"),
        OME.format('SizeZ="100" SizeT="2"', "".join(f'<TiffData IFD="{n}" PlaneCount="1"/>' for n in range(200))),
        SCN.format("".join(f'<dimension r="{n}" c="2" ifd="{n}"/>' for n in range(12))),
        MODULO.format('Start="0" End="10" Step="0.5"'),
    ):
        check_description(text, PAGES, path)


def test_numbers_that_are_none_are_refused(tmp_path: Path):
    for text in (HUGE["planes"].replace("2000000000", "many"), MODULO.format('Start="0" End="9" Step="0"')):
        with pytest.raises(SlideError, match="a number in it is none"):
            check_description(text, PAGES, tmp_path / "a.tif")


def test_entities_and_floods_of_nodes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    bomb = '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "bbbb"><!ENTITY c "&b;&b;">]><a>&c;</a>'
    for text in (bomb, bomb.encode("utf-16"), bomb.encode()):
        with pytest.raises(ElementTree.ParseError, match="type of document"):
            parse_xml(text)
    with pytest.raises(SlideError, match="it declares a type of document"):
        check_description(bomb, PAGES, tmp_path / "a.tif")
    monkeypatch.setattr(xml_text, "MAX_NODES", 10)
    with pytest.raises(SlideError, match="more than 10 nodes"):
        check_description("<a>" + 20 * "<b/>" + "</a>", PAGES, tmp_path / "a.tif")


def naming(file: str) -> str:
    return OME.format('SizeZ="1" SizeT="1"', f'<TiffData IFD="0"><UUID FileName="{file}">urn:uuid:1</UUID></TiffData>')


@pytest.mark.parametrize("file", ["../b.tif", "/etc/passwd", "c\\b.tif", ".."])
def test_files_of_other_folders_are_not_opened(tmp_path: Path, file: str):
    with pytest.raises(SlideError, match="names a file in another folder"):
        check_description(naming(file), PAGES, tmp_path / "a.tif")


def test_files_beside_are_checked_too(tmp_path: Path):
    check_description(naming("b.tif"), PAGES, tmp_path / "a.tif")
    tifffile.imwrite(tmp_path / "b.tif", np.zeros((16, 16), np.uint8), metadata=None)
    check_description(naming("b.tif"), PAGES, tmp_path / "a.tif")
    data = bytearray((tmp_path / "b.tif").read_bytes())
    data[-4:] = data[4:8]
    (tmp_path / "b.tif").write_bytes(data)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(SlideError, match="no file"):
            check_description(naming("pipe"), PAGES, tmp_path / "a.tif")


@pytest.mark.parametrize("name", [name for name in HUGE if "all pages" not in name])  # there is one
def test_a_slide_with_such_a_header_is_refused(tmp_path: Path, name: str):
    path = tmp_path / "a.tif"
    pixels = np.full((64, 64, 3), 200, np.uint8)
    tifffile.imwrite(path, pixels, tile=(32, 32), photometric="rgb", description=HUGE[name], metadata=None)
    with pytest.raises(SlideError, match="it tells of"):
        open_pyramid(path)
