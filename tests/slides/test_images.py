"""Which images of a container are slides: all of them, nothing else, or the file is refused."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from containers import CHANNELS, DEEP, LABEL, MACRO, NAMES, RGB, SLIDE, THUMBNAIL, Part, ome_xml, write_container
from hypothesis import given, settings
from hypothesis import strategies as st

from wsisum_cli.errors import NotASlideError, SeveralSlidesError, SlideError
from wsisum_cli.slides.damage import Damage
from wsisum_cli.slides.images import ContainerImage, Role, choose_slides, decide_roles, have_same_shape, role_of_name
from wsisum_cli.slides.pyramid import Pyramid
from wsisum_cli.slides.slide import open_pyramid, read_level


def opened_levels(path: Path) -> list[list[np.ndarray]]:
    """Pixels of all levels of all slides of a file. Raises SlideError where it is refused."""

    def read(pyramid: Pyramid) -> list[np.ndarray]:
        try:
            return [read_level(pyramid, level, 1, Damage(), 1) for level in range(len(pyramid.levels))]
        finally:
            pyramid.close()

    try:
        return [read(open_pyramid(path))]
    except SeveralSlidesError as error:
        return [read(open_pyramid(path, number)) for number in range(1, error.count + 1)]


def opened_or_refused(path: Path) -> tuple[list[list[np.ndarray]], str]:
    """The same, and the message of the refusal, which is empty where there is none."""
    try:
        return opened_levels(path), ""
    except SlideError as error:
        return [], str(error)


# names


@pytest.mark.parametrize("name", [name for role in (LABEL, MACRO, THUMBNAIL) for name in NAMES[role]])
@pytest.mark.parametrize("form", ["{}", "S20-1234 {}", "{} #2", "CMU-1.svs - {}", "[{}]"])
def test_names_of_what_is_no_slide(name: str, form: str) -> None:
    assert role_of_name(form.format(name)) in (Role.LABEL, Role.MACRO, Role.THUMBNAIL)


@pytest.mark.parametrize("name", ["étiquette", "Etikettenbild", "标签", "ラベル画像", "этикетка", "BarcodeImage"])
def test_labels_of_other_languages(name: str) -> None:
    assert role_of_name(name) is Role.LABEL


@pytest.mark.parametrize("name", [*NAMES[SLIDE][1:], "Scene 2", "scan_3", "Region 001", "Slide #4"])
def test_names_of_slides(name: str) -> None:
    assert role_of_name(name) is Role.SLIDE


@pytest.mark.parametrize("name", ["", "Image0", "Macrophages CD68", "unlabelled", "S20-1234", "HE", "Image:1"])
def test_names_that_tell_nothing(name: str) -> None:
    assert role_of_name(name) is Role.UNKNOWN


# roles beside one another

MAIN = ContainerImage(0, "Scene 1", 20_000, 16_000, described=True, pixel_size=(0.25, "µm"))


@pytest.mark.parametrize(
    ("other", "role"),
    [
        ({"name": "", "width": 1600, "height": 1000}, Role.OTHER),  # tiny, and without a pixel size
        ({"name": "", "width": 1280, "height": 431, "tiled": False}, Role.OTHER),
        ({"name": "", "width": 5000, "height": 4000, "described": False}, Role.THUMBNAIL),
        ({"name": "", "width": 15_000, "height": 12_000, "described": False}, None),
        ({"name": "", "width": 1500, "height": 1200, "described": False, "tiled": False}, Role.THUMBNAIL),
        ({"name": "", "width": 5000, "height": 4000, "pixel_size": (1.0, "µm")}, Role.THUMBNAIL),
        ({"name": "", "width": 1900, "height": 700, "pixel_size": (20.0, "µm")}, Role.MACRO),
        ({"name": "", "width": 1900, "height": 700, "reduced": True}, Role.MACRO),
        ({"name": "Scene 2", "width": 18_000, "height": 9000, "pixel_size": (0.26, "µm")}, Role.SLIDE),
        ({"name": "Scene 2", "width": 18_000, "height": 9000}, None),
        ({"name": "Scene 2", "width": 18_000, "height": 9000, "pixel_size": (2.0, "µm")}, None),
        ({"name": "Slide photo", "width": 1800, "height": 900, "pixel_size": (0.25, "µm")}, Role.MACRO),
        ({"name": "label", "width": 18_000, "height": 9000}, Role.LABEL),
        ({"name": "", "width": 18_000, "height": 9000}, None),
        ({"name": "", "width": 1600, "height": 1000, "pixel_size": (0.25, "µm")}, None),
        ({"name": "Image 2", "width": 9000, "height": 9000, "dtype": "uint16"}, None),
        ({"name": "label", "width": 30_000, "height": 30_000}, None),
    ],
)
def test_roles_beside_a_slide(other: dict[str, object], role: Role | None) -> None:
    image = replace(MAIN, **{"index": 1, "pixel_size": None, **other})  # type: ignore[arg-type]
    if role is None:
        with pytest.raises(SlideError, match=r"^a\.tif: holds 2 images, of which number 2 .*; export") as caught:
            decide_roles([MAIN, image], "a.tif")
        assert caught.value.reason == "several images"
        assert image.name not in str(caught.value) or len(image.name) < 6
    else:
        assert [found.role for found in decide_roles([MAIN, image], "a.tif")] == [Role.SLIDE, role]


def test_names_that_differ_in_numbers_alone_are_of_one_kind() -> None:
    images = [replace(MAIN, index=n, name=f"S20-1234.svs #{n}", width=20_000 - n * 3000) for n in range(3)]
    assert [image.index for image in choose_slides(images, "a.tif")] == [0, 1, 2]
    for doubtful in (replace(images[2], pixel_size=None), replace(images[2], width=1000)):
        with pytest.raises(SlideError, match="may be another slide or a label"):
            choose_slides([*images[:2], doubtful], "a.tif")


def test_labels_alone_are_no_slide() -> None:
    with pytest.raises(NotASlideError, match="label and macro images only"):
        choose_slides(
            [replace(MAIN, name="Label", width=900), replace(MAIN, index=1, name="Macro", width=900)], "a.tif"
        )


def test_words_of_studies_do_not_hide_a_slide() -> None:
    images = [replace(MAIN, name="MAP kinase 2.svs"), replace(MAIN, index=1, name="label image", width=900, height=700)]
    assert [image.index for image in choose_slides(images, "a.tif")] == [0]
    beside = [MAIN, replace(MAIN, index=1, name="Tumour mask")]
    assert [image.role for image in decide_roles(beside, "a.tif")] == [Role.SLIDE, Role.OTHER]


def test_shapes_are_compared_up_to_rounding() -> None:
    assert have_same_shape((2048, 1536), (512, 384))
    assert have_same_shape((31, 37), (250, 301))
    assert not have_same_shape((2048, 1536), (1600, 1000))
    assert not have_same_shape((2048, 1536), (1536, 2048))


# containers

SIZES = st.sampled_from([272, 300, 352, 416, 448, 512, 560, 640])


@st.composite
def parts(draw: st.DrawFn) -> list[Part]:
    """1 to 4 images. A label, macro or thumbnail that has no name is smaller than a slide."""
    count = draw(st.integers(1, 4))
    slides = draw(st.integers(0, count))
    found = []
    for index in range(count):
        role = SLIDE if index < slides else draw(st.sampled_from([LABEL, MACRO, THUMBNAIL]))
        names = st.sampled_from(NAMES[role][1:])
        name = draw(names) + draw(st.sampled_from(["", " 1", " #2"]))
        if role == SLIDE and index == 0 and draw(st.booleans()):
            name = ""
        part = Part(
            role,
            name,
            draw(SIZES),
            draw(SIZES),
            draw(st.sampled_from([RGB, RGB, RGB, DEEP, CHANNELS])) if role == SLIDE else RGB,
            tiled=role == SLIDE or draw(st.booleans()),
            seed=index,
            mpp=draw(st.sampled_from([0.25, 0.25, None, 4.0]))
            if role != SLIDE
            else draw(st.sampled_from([0.25, None])),
        )
        if role != SLIDE and slides and draw(st.integers(0, 5)) == 0:
            part = replace(part, name="", width=128, height=208)
        found.append(part)
    return draw(st.permutations(found))


def is_plain(drawn: list[Part]) -> bool:
    """Whether a person would have to read the slides: all can be read, and names tell what every image is."""
    slides = [part for part in drawn if part.role == SLIDE]
    sizes = {(part.width, part.height, part.mpp) for part in slides}
    alike = len({part.mpp for part in slides}) == 1
    named = all(part.name for part in drawn) or (len(slides) == 1 and all(p.name for p in drawn if p.role != SLIDE))
    readable = bool(slides) and all(part.kind == RGB for part in slides)
    return readable and named and alike and len({size[:2] for size in sizes}) == len(slides)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_all_slides_and_nothing_else_are_read_or_the_file_is_refused(data: st.DataObject) -> None:
    drawn, ome = data.draw(parts()), data.draw(st.booleans())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ("a.ome.tif" if ome else "a.tif")
        write_container(path, drawn, ome)
        slides = [part for part in drawn if part.role == SLIDE]
        read, refusal = opened_or_refused(path)
        if refusal:
            assert not is_plain(drawn)
            assert refusal.startswith(path.name)
            assert all(len(part.name) < 6 or part.name not in refusal for part in drawn)
            return
        assert [levels[0].shape for levels in read] == [part.pixels().shape for part in slides]
        for levels, part in zip(read, slides, strict=True):
            np.testing.assert_array_equal(levels[0], part.pixels())
            assert len(levels) == 1


@pytest.mark.parametrize("ome", [True, False])
@pytest.mark.parametrize("kind", [DEEP, CHANNELS])
@pytest.mark.parametrize("name", ["label image", "Label", "Etikett", "Overview 1", ""])
def test_no_label_takes_the_place_of_a_slide_that_is_not_read(name: str, kind: str, ome: bool, tmp_path: Path) -> None:
    drawn = [Part(SLIDE, "", 640, 512, kind), Part(LABEL, name, 500, 300, seed=1)]
    for order in (drawn, drawn[::-1]):
        path = tmp_path / ("a.ome.tif" if ome else "a.tif")
        write_container(path, order, ome)
        with pytest.raises(SlideError, match=r"^a\.(ome\.)?tif: "):
            open_pyramid(path)


def test_a_slide_and_its_label_in_one_container(tmp_path: Path) -> None:
    drawn = [Part(LABEL, "label image", 500, 300), Part(SLIDE, "S20-1234", 640, 512, seed=1)]
    for ome in (True, False):
        write_container(tmp_path / "a.tif", drawn, ome)
        ((pixels,),) = opened_levels(tmp_path / "a.tif")
        np.testing.assert_array_equal(pixels, drawn[1].pixels())


def test_a_label_is_no_level_of_a_slide(tmp_path: Path) -> None:
    """Half as large as the slide to the pixel, as the next level of its pyramid would be."""
    drawn = [Part(SLIDE, "", 640, 512), Part(LABEL, "label", 320, 256, seed=1)]
    for ome in (True, False):
        write_container(tmp_path / "a.tif", drawn, ome)
        ((pixels,),) = opened_levels(tmp_path / "a.tif")
        np.testing.assert_array_equal(pixels, drawn[0].pixels())


def test_openslide_reads_no_label_in_place_of_a_slide(tmp_path: Path) -> None:
    """A slide in strips, which no reader opens, beside a tiled image."""
    drawn = [Part(SLIDE, "", 640, 512, tiled=False), Part(LABEL, "label", 300, 272, seed=1)]
    write_container(tmp_path / "a.tif", drawn, ome=False)
    with pytest.raises(SlideError, match=r"^a\.tif: .*not tiled"):
        open_pyramid(tmp_path / "a.tif")


def test_slides_of_one_size_and_two_pixel_sizes_are_refused(tmp_path: Path) -> None:
    drawn = [Part(SLIDE, "Scene 1", 640, 512), Part(SLIDE, "Scene 2", 640, 512, seed=1, mpp=0.5)]
    write_container(tmp_path / "a.ome.tif", drawn, ome=True)
    for number in (1, 2):
        with pytest.raises(SlideError, match="several pixel sizes"):
            open_pyramid(tmp_path / "a.ome.tif", number)


@pytest.mark.parametrize("number", [0, 3])
def test_a_slide_that_is_not_there(number: int, tmp_path: Path) -> None:
    write_container(tmp_path / "a.ome.tif", [Part(SLIDE, "Scene 1", 640, 512), Part(SLIDE, "Scene 2", 512, 512)], True)
    with pytest.raises(SlideError, match=f"expected slide {number} of the file, found 2"):
        open_pyramid(tmp_path / "a.ome.tif", number)


def test_a_link_to_a_slide_is_read(tmp_path: Path) -> None:
    write_container(tmp_path / "a.ome.tif", [Part(SLIDE, "", 640, 512)], ome=True)
    (tmp_path / "link.ome.tif").symlink_to(tmp_path / "a.ome.tif")
    ((pixels,),) = opened_levels(tmp_path / "link.ome.tif")
    assert pixels.shape == (512, 640, 3)


@pytest.mark.parametrize(("there", "reason"), [(True, "several files"), (False, "pages missing")])
def test_a_slide_whose_pages_lie_in_another_file_is_refused(there: bool, reason: str, tmp_path: Path) -> None:
    """The label in this file does not take its place, nor are its bytes read as the slide's."""
    main, label = Part(SLIDE, "HE", 640, 512), Part(LABEL, "label", 300, 272, seed=1)
    if there:
        write_container(tmp_path / "b.ome.tif", [main], ome=True)
    xml = ome_xml([main, label]).decode()
    for page, uuid, name in ((0, "urn:uuid:b", "b.ome.tif"), (1, "urn:uuid:a", "a.ome.tif")):
        named = f'<UUID FileName="{name}">{uuid}</UUID>'
        xml = xml.replace(f'IFD="{page}" PlaneCount="1"/>', f'IFD="0" PlaneCount="1">{named}</TiffData>')
    xml = xml.replace("<OME ", '<OME UUID="urn:uuid:a" ')
    with tifffile.TiffWriter(tmp_path / "a.ome.tif") as tiff:
        tiff.write(label.pixels(), tile=(256, 256), photometric="rgb", description=xml.encode(), metadata=None)
    with pytest.raises(SlideError, match=r"^a\.ome\.tif: the p.* of its image of 640 x 512 px") as caught:
        open_pyramid(tmp_path / "a.ome.tif")
    assert caught.value.reason == reason


def test_a_label_that_stands_first_in_an_svs_hides_no_slide(tmp_path: Path) -> None:
    head = "Aperio Image Library v11.2.1\r\n"
    slide, label = Part(SLIDE, "", 640, 512), Part(LABEL, "", 300, 272, seed=1)
    with tifffile.TiffWriter(tmp_path / "a.svs") as tiff:
        options = {"photometric": "rgb", "metadata": None, "tile": (256, 256)}
        tiff.write(label.pixels(), description=f"{head}label 300x272", **options)
        tiff.write(slide.pixels()[::8, ::8], description=head, photometric="rgb", rowsperstrip=16, metadata=None)
        tiff.write(slide.pixels(), description=f"{head}640x512 (256x256)|MPP = 0.25", **options)
    ((pixels,),) = opened_levels(tmp_path / "a.svs")
    np.testing.assert_array_equal(pixels, slide.pixels())


def test_an_svs_of_16_bits_is_not_replaced_by_its_label(tmp_path: Path) -> None:
    head = "Aperio Image Library v11.2.1\r\n"
    with tifffile.TiffWriter(tmp_path / "a.svs") as tiff:
        options = {"photometric": "rgb", "metadata": None}
        deep, label = Part(SLIDE, "", 640, 512, DEEP).pixels(), Part(LABEL, "", 400, 304, seed=1).pixels()
        tiff.write(deep, description=f"{head}640x512 (256x256)|MPP = 0.25", tile=(256, 256), **options)
        tiff.write(label[::4, ::4], description=head, rowsperstrip=16, **options)
        for tiled in ({"tile": (256, 256)}, {"rowsperstrip": 16, "subfiletype": 1}):
            tiff.write(label, description=f"{head}label 400x304", **options, **tiled)
    with pytest.raises(NotASlideError, match=r"found axes YXS, shape \(512, 640, 3\), uint16"):
        open_pyramid(tmp_path / "a.svs")


@pytest.mark.parametrize("kind", [RGB, DEEP])
def test_a_qptiff_is_read_where_it_is_brightfield(kind: str, tmp_path: Path) -> None:
    slide, label = Part(SLIDE, "", 640, 512, kind).pixels(), Part(LABEL, "", 300, 272, seed=1).pixels()
    with tifffile.TiffWriter(tmp_path / "a.qptiff") as tiff:
        options = {"photometric": "rgb", "metadata": None, "software": "PerkinElmer-QPI"}
        tiff.write(slide, tile=(256, 256), **options)
        tiff.write(slide[::8, ::8], rowsperstrip=16, **options)
        tiff.write(slide[::2, ::2], tile=(256, 256), **options)
        for _ in ("macro", "label"):
            tiff.write(label, rowsperstrip=16, **options)
    if kind == DEEP:
        with pytest.raises(NotASlideError, match="uint16"):
            open_pyramid(tmp_path / "a.qptiff")
    else:
        ((level0, level1),) = opened_levels(tmp_path / "a.qptiff")
        np.testing.assert_array_equal(level0, slide)
        np.testing.assert_array_equal(level1, slide[::2, ::2])


# colour planes, alpha and focal planes


def planes_xml(part: Part, channels: str, depth: int = 1) -> bytes:
    return (
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0"><Pixels ID="Pixels:0" '
        f'DimensionOrder="XYCZT" Type="uint8" SizeX="{part.width}" SizeY="{part.height}" SizeC="3" SizeZ="{depth}" '
        f'SizeT="1">{channels}<TiffData IFD="0" PlaneCount="{3 * depth}"/></Pixels></Image></OME>'
    ).encode()


@pytest.mark.parametrize("names", [("", "", ""), ("Red", "Green", "Blue"), ("Blue", "Green", "Red")])
def test_three_grey_planes_are_red_green_and_blue(names: tuple[str, str, str], tmp_path: Path) -> None:
    part, path = Part(SLIDE, "", 640, 512), tmp_path / "a.ome.tif"
    channels = "".join(f'<Channel ID="Channel:0:{n}" Name="{name}"/>' for n, name in enumerate(names))
    order = (2, 1, 0) if names[0] == "Blue" else (0, 1, 2)
    with tifffile.TiffWriter(path) as tiff:
        for depth in range(3):
            for n in order:
                plane = replace(part, seed=depth).pixels()[..., n]
                options = {"description": planes_xml(part, channels, 3)} if (depth, n) == (0, order[0]) else {}
                tiff.write(plane, tile=(256, 256), photometric="minisblack", metadata=None, **options)
    pyramid = open_pyramid(path)
    assert pyramid.focal_plane == (2, 3)
    assert not pyramid.copies_jpeg(0)
    np.testing.assert_array_equal(read_level(pyramid, 0, 1, Damage(), 1), replace(part, seed=1).pixels())
    np.testing.assert_allclose(read_level(pyramid, 0, 2, Damage(), 1).mean(), pyramid_mean(part), atol=1)
    pyramid.close()


def pyramid_mean(part: Part) -> float:
    return float(replace(part, seed=1).pixels().mean())


def test_channels_of_fluorescence_are_no_colours(tmp_path: Path) -> None:
    part, path = Part(SLIDE, "", 640, 512), tmp_path / "a.ome.tif"
    channels = "".join(f'<Channel ID="Channel:0:{n}" EmissionWavelength="{500 + n}"/>' for n in range(3))
    with tifffile.TiffWriter(path) as tiff:
        for n in range(3):
            options = {"description": planes_xml(part, channels)} if not n else {}
            tiff.write(part.pixels()[..., n], tile=(256, 256), photometric="minisblack", metadata=None, **options)
    with pytest.raises(NotASlideError, match="expected one RGB image"):
        open_pyramid(path)


@pytest.mark.parametrize("kind", ["unassalpha", "assocalpha", "unspecified"])
def test_what_alpha_hides_is_white(kind: str, tmp_path: Path) -> None:
    colours = Part(SLIDE, "", 640, 512).pixels()
    alpha = np.full(colours.shape[:2], 255, np.uint8)
    alpha[:, :320] = 0
    colours[:, :320] = 0
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        both = np.dstack([colours, alpha])
        tiff.write(both, tile=(256, 256), photometric="rgb", extrasamples=[kind], compression="zlib", metadata=None)
    ((pixels,),) = opened_levels(tmp_path / "a.tif")
    np.testing.assert_array_equal(pixels[:, 320:], colours[:, 320:])
    assert (pixels[:, :320] == (0 if kind == "unspecified" else 255)).all()


def test_a_file_without_any_tile_has_no_pixels(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    write_container(path, [Part(SLIDE, "", 640, 512)], ome=False)
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tag = tiff.pages.first.tags["TileByteCounts"]
        tag.overwrite([0] * tag.count)
    with pytest.raises(SlideError, match=r"^a\.tif: the file stores no tile of the slide") as caught:
        open_pyramid(path)
    assert caught.value.reason == "no pixels"


def test_an_mrxs_without_its_folder_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.mrxs").write_bytes(b"head")
    with pytest.raises(SlideError, match=r"^a\.mrxs: the folder a with its pixels is missing") as caught:
        open_pyramid(tmp_path / "a.mrxs")
    assert caught.value.reason == "pixels missing"
