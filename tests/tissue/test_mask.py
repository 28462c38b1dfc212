from __future__ import annotations

import time

import cv2
import numpy as np
import openslide
import pytest
import tifffile
from stains import RECOLOURINGS

from wsisum_cli.slides.damage import Damage
from wsisum_cli.slides.slide import open_slide, read_overview
from wsisum_cli.tissue.mask import find_tissue, is_brightfield, shaded_share, survey_overview

GLASS = (243, 242, 244)
HAEMATOXYLIN = np.array([0.65, 0.70, 0.29])
EOSIN = np.array([0.07, 0.99, 0.11])
DAB = np.array([0.27, 0.57, 0.78])
HE = 0.15 * HAEMATOXYLIN + 0.15 * EOSIN


# -- overviews that are drawn ------------------------------------------------------------------------------


def glass(height=400, width=500, colour=GLASS):
    return np.broadcast_to(np.array(colour, float), (height, width, 3)).copy()


def texture(shape, seed=0, sigma=2.0, depth=0.35):
    """Factors around 1, as cells and fibres give them."""
    noise = cv2.GaussianBlur(np.random.default_rng(seed).standard_normal(shape), (0, 0), sigma)
    return np.clip(1 + depth * noise / noise.std(), 0.2, 2.0)


def stain(image, where, density):
    amount = where * texture(image.shape[:2])
    return image * 10 ** (-amount[..., None] * np.asarray(density))


def paint(image, where, colour):
    soft = cv2.GaussianBlur(where.astype(float), (0, 0), 1.0)[..., None]
    return image * (1 - soft) + np.array(colour, float) * soft


def scanned(image, noise=2.0, seed=1):
    noisy = image + np.random.default_rng(seed).normal(0, noise, image.shape)
    return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)


def ellipse(shape, centre, axes):
    canvas = np.zeros(shape[:2], np.uint8)
    cv2.ellipse(canvas, centre, axes, 20, 0, 360, 1, -1)
    return canvas > 0


def stroke(shape, points, width, closed=False):
    canvas = np.zeros(shape[:2], np.uint8)
    cv2.polylines(canvas, [np.array(points, np.int32)], closed, 1, width)
    return canvas > 0


def assert_found(mask, tissue, recall=0.94, margin=8):
    near = cv2.dilate(tissue.astype(np.uint8), np.ones((2 * margin + 1, 2 * margin + 1), np.uint8)) > 0
    assert mask[tissue].mean() >= recall
    assert mask[~near].mean() <= 0.001


TISSUE = ellipse((400, 500), (200, 200), (130, 80))


@pytest.mark.parametrize("mpp", [2.0, 8.0, 30.0])
@pytest.mark.parametrize(
    "density",
    [
        HE,
        0.5 * HE,
        0.25 * HE,
        1.1 * HAEMATOXYLIN + 0.7 * EOSIN,
        0.08 * EOSIN,
        0.3 * DAB + 0.1 * HAEMATOXYLIN,
        1.2 * DAB + 0.3 * HAEMATOXYLIN,
        0.1 * DAB,
        0.08 * HAEMATOXYLIN,
        0.15 * HAEMATOXYLIN,
        [0.32, 0.20, 0.09],
    ],
    ids=[
        "he",
        "half he",
        "pale he",
        "dense he",
        "eosin",
        "dab",
        "dense dab",
        "weak dab",
        "weak h",
        "h",
        "very blue h",
    ],
)
def test_stained_tissue_is_found(density, mpp):
    assert_found(find_tissue(scanned(stain(glass(), TISSUE, density)), mpp), TISSUE, margin=16)


@pytest.mark.parametrize(
    "colour",
    [(255, 255, 255), (250, 250, 250), (228, 223, 229), (215, 215, 213), (244, 240, 224), (225, 230, 234)],
)
def test_glass_of_any_colour_is_left_out(colour):
    assert_found(find_tissue(scanned(stain(glass(colour=colour), TISSUE, 0.4 * HE)), 8.0), TISSUE)


@pytest.mark.parametrize("noise", [0.0, 2.0, 6.0])
@pytest.mark.parametrize("colour", [(255, 255, 255), (243, 242, 244), (228, 223, 229), (200, 200, 198)])
def test_empty_glass_with_noise_and_vignetting_has_none(colour, noise):
    y, x = np.mgrid[-1:1:400j, -1:1:500j]
    image = glass(colour=colour) * (1 - 0.12 * (x**2 + y**2))[..., None]
    assert not find_tissue(scanned(image, noise), 8.0).any()


def test_nothing_but_black_white_or_one_grey_is_not_tissue():
    for level in (0, 8, 40, 128, 200, 255):
        assert not find_tissue(np.full((60, 80, 3), level, np.uint8), 8.0).any()


@pytest.mark.parametrize("density", [HE, 0.4 * HE, 0.5 * DAB, 1.2 * HAEMATOXYLIN])
def test_tissue_without_any_glass_is_all_tissue(density):
    everywhere = np.ones((300, 300), bool)
    assert find_tissue(scanned(stain(glass(300, 300), everywhere, density)), 8.0).mean() > 0.97


def test_a_little_glass_beside_much_pale_tissue_is_still_glass():
    tissue = np.ones((400, 500), bool)
    tissue[:25] = False
    assert_found(find_tissue(scanned(stain(glass(), tissue, 0.3 * HE)), 8.0), tissue)


def net_of_fat():
    """The septa between cells of fat, and the fat with its cells, each (400, 500) bool."""
    rng = np.random.default_rng(3)
    septa, fat = np.zeros((2, 400, 500), np.uint8)
    cells = cv2.Subdiv2D((0, 0, 500, 400))
    grid = np.mgrid[100:300:14, 100:350:14].reshape(2, -1).T + rng.uniform(-5, 5, (15 * 18, 2))
    cells.insert([(float(x), float(y)) for y, x in grid])
    facets, centres = cells.getVoronoiFacetList([])
    for facet, (x, y) in zip(facets, centres, strict=True):
        if 125 < x < 325 and 125 < y < 275:
            cv2.polylines(septa, [np.int32(facet)], True, 1, 1)
            cv2.fillPoly(fat, [np.int32(facet)], 1)
    return septa > 0, fat > 0


@pytest.mark.parametrize("amount", [0.8, 0.3])
def test_a_net_of_fat_is_tissue_and_its_cells_are_filled(amount):
    septa, fat = net_of_fat()
    assert_found(find_tissue(scanned(stain(glass(), septa, amount * HE), 1.0), 8.0), fat, 0.85)


def test_a_wide_lumen_stays_out_and_a_small_one_is_filled():
    tissue = TISSUE & ~ellipse(TISSUE.shape, (150, 190), (40, 30)) & ~ellipse(TISSUE.shape, (270, 220), (7, 7))
    mask = find_tissue(scanned(stain(glass(), tissue, HE)), 8.0)
    assert not mask[180:200, 140:160].any()
    assert mask[210:230, 260:280].all()


def test_pigment_within_tissue_belongs_to_it():
    image = paint(stain(glass(), TISSUE, HE), ellipse(TISSUE.shape, (200, 200), (40, 30)), (45, 43, 42))
    assert_found(find_tissue(scanned(image), 8.0), TISSUE)


@pytest.mark.parametrize("side", [18, 22])  # 0.02 and 0.03 mm²
def test_a_fragment_is_kept_and_a_crumb_is_not(side):
    tissue = np.zeros((400, 500), bool)
    tissue[100 : 100 + side, 100 : 100 + side] = True
    crumb = np.zeros((400, 500), bool)
    crumb[300:306, 300:306] = True
    assert_found(find_tissue(scanned(stain(glass(), tissue | crumb, 0.6 * HE)), 8.0), tissue, 0.9)


PENS = {
    "black": (25, 24, 28),
    "grey": (110, 110, 112),
    "blue": (30, 60, 190),
    "navy": (30, 65, 130),
    "royal blue": (65, 85, 160),
    "light blue": (60, 120, 190),
    "green": (30, 120, 70),
    "dark green": (30, 75, 60),
    "light green": (110, 190, 130),
    "turquoise": (20, 140, 150),
    "red": (215, 30, 40),
    "dark red": (165, 20, 30),
}


@pytest.mark.parametrize("colour", PENS.values(), ids=PENS)
def test_a_pen_stroke_on_glass_is_left_out(colour):
    drawn = stroke((400, 500), [(20, 20), (250, 60), (470, 30)], 40)
    assert not find_tissue(scanned(paint(glass(), drawn, colour), 3.0), 8.0).any()


@pytest.mark.parametrize("colour", PENS.values(), ids=PENS)
def test_a_pen_ring_leaves_the_tissue_within_it(colour):
    tissue = ellipse((400, 500), (250, 200), (90, 60))
    ring = stroke((400, 500), cv2.ellipse2Poly((250, 200), (170, 140), 20, 0, 360, 5), 40, closed=True)
    image = paint(stain(glass(), tissue, 0.6 * HE), ring, colour)
    assert_found(find_tissue(scanned(image), 8.0), tissue)


@pytest.mark.parametrize("colour", PENS.values(), ids=PENS)
def test_a_pen_stroke_that_touches_tissue_takes_no_more_than_itself(colour):
    drawn = stroke((400, 500), [(280, 40), (320, 360)], 36)
    mask = find_tissue(scanned(paint(stain(glass(), TISSUE, HE), drawn, colour)), 8.0)
    clear = cv2.dilate(drawn.astype(np.uint8), np.ones((21, 21), np.uint8)) == 0
    assert mask[TISSUE & clear].mean() > 0.96
    assert mask[drawn & ~TISSUE].mean() < 0.05


def test_a_black_frame_and_unread_areas_are_left_out():
    image = stain(glass(), TISSUE, HE)
    image[:30], image[-30:], image[:, :40], image[:, -40:] = 2, 20, 35, 0
    image[180:240, 180:240] = 0
    mask = find_tissue(scanned(image, 1.0), 8.0)
    assert not mask[:28].any()
    assert not mask[-28:].any()
    assert not mask[:, :38].any()
    assert not mask[185:235, 185:235].any()
    assert mask[TISSUE].mean() > 0.85


@pytest.mark.parametrize("other", [(248, 248, 249), (236, 230, 236)])
def test_seams_between_two_colours_of_glass_are_left_out(other):
    image = glass(colour=(255, 255, 255))
    image[100:300, 60:400] = (250, 250, 250)
    image[150:350, 200:330] = other
    image[::64] -= 3
    image[:, ::64] -= 3
    assert_found(find_tissue(scanned(stain(image, TISSUE, 0.5 * HE), 1.0), 8.0), TISSUE, margin=20)


def test_dust_and_hairs_are_left_out():
    image = glass()
    rng = np.random.default_rng(5)
    for x, y in rng.integers(20, 380, (40, 2)):
        image = paint(image, ellipse((400, 500), (int(x), int(y)), (4, 4)), (150, 148, 151))
    image = paint(image, stroke((400, 500), [(10, 380), (200, 300), (420, 390)], 2), (120, 118, 175))
    assert not find_tissue(scanned(image), 8.0).any()


def test_the_same_overview_gives_the_same_mask_with_any_number_of_threads():
    image = scanned(stain(glass(), TISSUE, HE))
    before = cv2.getNumThreads()
    try:
        masks = []
        for threads in (1, 2, 4):
            cv2.setNumThreads(threads)
            masks.append(find_tissue(image, 8.0))
    finally:
        cv2.setNumThreads(before)
    assert all(np.array_equal(mask, masks[0]) for mask in masks)


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (1, 1), (1, 300), (2, 3), (300, 2)])
def test_any_shape_of_overview_has_a_mask_of_its_shape(shape):
    for mpp in (2.0, 8.0, 60.0):
        mask = find_tissue(np.full((*shape, 3), 200, np.uint8), mpp)
        assert mask.shape == shape
        assert mask.dtype == bool


def test_the_overview_is_not_changed():
    image = scanned(stain(glass(), TISSUE, HE))
    before = image.copy()
    image.flags.writeable = False
    find_tissue(image, 8.0)
    is_brightfield(image)
    assert np.array_equal(image, before)


def test_seven_megapixels_take_seconds():
    tile = scanned(stain(glass(), TISSUE, HE))
    image = np.tile(tile, (5, 7, 1))
    start = time.perf_counter()
    find_tissue(image, 8.0)
    assert time.perf_counter() - start < 20  # 0.5 s on two quiet cores


# -- overviews of real slides: boxes and points are in px of 8 µm -------------------------------------------


def level(shared, name, page):
    """One page of a slide, of 3 or 4 µm per px, as an overview at 8 µm."""
    with tifffile.TiffFile(next((shared / "slides").rglob(name))) as tiff:
        base = tiff.series[0].levels
        image = base[page].asarray()
        factor = base[0].shape[1] / image.shape[1] * 0.25 / 8.0
    return cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)


def box(mask, left, top, right, bottom):
    return mask[top:bottom, left:right]


def test_the_ink_on_the_glass_of_the_duodenum_is_left_out(shared):
    mask = find_tissue(level(shared, "duodenum-lymphangiectasia.svs", 2), 8.0)
    assert 0.22 < mask.mean() < 0.27
    assert not box(mask, 405, 85, 445, 130).any()
    assert not box(mask, 0, 220, 250, 354).any()
    assert box(mask, 150, 150, 180, 180).mean() > 0.9
    assert box(mask, 400, 230, 440, 270).mean() > 0.9


def test_the_seams_of_the_lung_are_left_out_and_its_pale_tissue_is_not(shared):
    mask = find_tissue(level(shared, "lung-scc-3.svs", 2), 8.0)
    assert 0.19 < mask.mean() < 0.22
    for outside in ((0, 460, 559, 503), (540, 0, 559, 503), (0, 0, 559, 33), (200, 345, 559, 503)):
        assert not box(mask, *outside).any()
    for inside in ((73, 330, 121, 359), (165, 121, 204, 160), (291, 218, 340, 262)):
        assert box(mask, *inside).mean() > 0.95
    assert box(mask, 518, 240, 532, 252).mean() > 0.6  # a fragment of 0.02 mm²


def test_the_fat_of_the_colon_is_tissue_and_the_hair_beside_it_is_not(shared):
    mask = find_tissue(level(shared, "tubular-adenoma.ome.tiff", 2), 8.0)
    assert 0.16 < mask.mean() < 0.19
    assert not box(mask, 15, 30, 65, 60).any()
    assert not box(mask, 300, 300, 516, 518).any()
    for fat in ((120, 335, 180, 350), (350, 130, 375, 155), (285, 175, 310, 200)):
        assert box(mask, *fat).mean() > 0.9


def test_the_fragments_of_the_pancreas_are_tissue(shared):
    mask = find_tissue(level(shared, "pdac-tru-cut-3.tiff", 2), 8.0)
    assert 0.08 < mask.mean() < 0.1
    for x, y in ((518, 199), (416, 475), (634, 447), (62, 551), (98, 508), (570, 297), (450, 65), (265, 355)):
        assert box(mask, x - 4, y - 4, x + 5, y + 5).mean() > 0.5
    assert cv2.connectedComponents(mask.astype(np.uint8))[0] - 1 <= 20


def test_the_stomach_is_found_to_its_edge(shared):
    mask = find_tissue(level(shared, "stomach-metaplasia.svs", 1), 8.0)
    assert 0.6 < mask.mean() < 0.66
    assert not box(mask, 0, 0, 100, 40).any()
    assert box(mask, 40, 150, 140, 250).mean() > 0.99


@pytest.mark.parametrize("mpp", [16.0, 32.0, 60.0])
def test_a_coarser_overview_gives_the_same_share_of_tissue(shared, mpp):
    image = level(shared, "lung-scc-3.svs", 2)
    coarse = cv2.resize(image, None, fx=8.0 / mpp, fy=8.0 / mpp, interpolation=cv2.INTER_AREA)
    assert abs(find_tissue(coarse, mpp).mean() - find_tissue(image, 8.0).mean()) < 0.03


def from_openslide(shared, name, mpp, reduced):
    with openslide.OpenSlide(shared / "fixtures" / name) as slide:
        image = np.asarray(slide.read_region((0, 0), 0, slide.dimensions).convert("RGB"))
    image = cv2.resize(image, None, fx=1 / reduced, fy=1 / reduced, interpolation=cv2.INTER_AREA)
    assert is_brightfield(image)
    return find_tissue(image, mpp * reduced)


def test_two_lymph_nodes_on_tinted_glass_are_found_without_dust_and_coverslip(shared):
    first = from_openslide(shared, "camelyon-jpeg.dcm", 28.97, 1)
    assert 0.27 < first.mean() < 0.32
    assert box(first, 0, 640, 1152, 700).mean() < 0.002
    second = from_openslide(shared, "camelyon-jpeg2000.dcm", 28.97, 1)
    assert 0.34 < second.mean() < 0.39
    assert not box(second, 210, 6, 230, 14).any()  # blue ink
    assert not box(second, 630, 20, 680, 70).any()  # dust
    assert not box(second, 66, 660, 200, 812).any()


def test_skin_and_stitched_lymph_node_are_found(shared):
    skin = from_openslide(shared, "CMU-1-Small-Region.svs", 0.499, 16)
    assert 0.36 < skin.mean() < 0.44
    stitched = from_openslide(shared, "tcga-cr-7395-01a-01-ts1.svs", 0.5, 16)
    assert 0.65 < stitched.mean() < 0.72
    assert not box(stitched, 0, 0, 80, 25).any()


@pytest.mark.parametrize("page", [1, 2, 3])
def test_a_real_fluorescence_slide_is_not_brightfield(shared, page):
    path = shared / "fixtures" / "fluorescence-dapi.ndpi"
    assert not is_brightfield(tifffile.imread(path, key=page))


# -- brightfield -------------------------------------------------------------------------------------------


def test_slides_in_transmitted_light_are_brightfield():
    he = scanned(stain(glass(), TISSUE, HE))
    framed = np.pad(he, ((500, 500), (500, 500), (0, 0)))
    dense = scanned(stain(glass(), np.ones((400, 500), bool), 0.6 * HAEMATOXYLIN))
    for image in (he, framed, dense, scanned(glass()), np.full((50, 50, 3), 255, np.uint8)):
        assert is_brightfield(image)


@pytest.mark.parametrize("colour", [(0, 0, 255), (0, 255, 0), (255, 255, 255), (200, 90, 40), (60, 70, 200)])
@pytest.mark.parametrize("share", [0.05, 0.6])
def test_fluorescence_is_not_brightfield(colour, share):
    cells = cv2.GaussianBlur(np.random.default_rng(7).standard_normal((400, 500)), (0, 0), 4.0)
    light = np.clip(cells - np.quantile(cells, 1 - share), 0, None)
    image = light[..., None] / light.max() * np.array(colour) + 3
    assert not is_brightfield(scanned(image, 1.0))


def test_a_grey_photograph_and_a_black_image_are_not_brightfield():
    grey = np.clip(texture((200, 200), sigma=5.0) * 110, 0, 255).astype(np.uint8)
    assert not is_brightfield(np.repeat(grey[..., None], 3, axis=2))
    assert not is_brightfield(np.zeros((50, 50, 3), np.uint8))


# -- other stains --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stomach(shared) -> np.ndarray:
    """The overview of a slide stained with haematoxylin and eosin, at about 8 µm."""
    path = shared / "slides" / "stomach" / "stomach-metaplasia.svs"
    with open_slide(path, 0.25, path.name) as slide:
        return read_overview(slide, Damage(), 1).pixels


@pytest.mark.parametrize("recolour", RECOLOURINGS)
def test_tissue_of_any_stain_is_found_where_haematoxylin_and_eosin_find_it(stomach, recolour):
    expected = find_tissue(stomach, 8.0)
    found = find_tissue(RECOLOURINGS[recolour](stomach), 8.0)
    assert found[expected].mean() >= 0.95
    near = cv2.dilate(expected.astype(np.uint8), np.ones((13, 13), np.uint8)) > 0
    assert found[~near].mean() <= (0.03 if recolour == "dab all over" else 0.002)  # which doubles the haze on the glass


@pytest.mark.parametrize("recolour", ["silver", "reticulin", "light green", "methyl green", "pale ihc"])
def test_drawn_tissue_of_other_stains_is_found_and_shadows_and_ink_are_not(recolour):
    image = scanned(stain(glass(), TISSUE, HE), 1.0)
    expected = find_tissue(image, 8.0)
    other = RECOLOURINGS[recolour](image)
    other[20:60, 300:480] = 70  # a smooth black stroke
    y, x = np.mgrid[-1:1:400j, -1:1:500j]
    other = (other * (1 - 0.08 * (x**2 + y**2))[..., None]).astype(np.uint8)
    found = find_tissue(other, 8.0)
    assert found[expected].mean() >= 0.9
    assert not found[10:70, 290:490].any()
    assert found[300:, 350:].mean() < 0.001


PALE = ("pale ihc", "negative ihc", "pale fat", "reticulin", "perls", "grocott")
FOUR = (
    *("duodenum/duodenum-lymphangiectasia.svs", "lung/lung-scc-3.svs"),
    *("colon/tubular-adenoma.ome.tiff", "pancreas/pdac-tru-cut-3.tiff"),
)


@pytest.mark.parametrize("name", FOUR)
def test_pale_stains_are_found_on_tissue_of_all_kinds(shared, name):
    """Three thin slides with hardly any unstained-looking tissue left lose up to a twelfth of it."""
    path = shared / "slides" / name
    with open_slide(path, 0.25, path.name) as slide:
        image = read_overview(slide, Damage(), 1).pixels
    survey = survey_overview(image, 8.0)
    assert survey.unexplained_share < 0.05
    near = cv2.dilate(survey.tissue.astype(np.uint8), np.ones((13, 13), np.uint8)) > 0
    for stain_name in PALE:
        found = find_tissue(RECOLOURINGS[stain_name](image), 8.0)
        assert found[survey.tissue].mean() >= (0.91 if stain_name == "pale fat" else 0.94), stain_name
        assert found[~near].mean() <= 0.005, stain_name


@pytest.mark.parametrize("recolour", ["silver", "light green", "methyl green", "dab all over"])
@pytest.mark.parametrize("depth", [1.0, 1.6])
def test_a_slide_that_is_tissue_everywhere_is_all_tissue_in_any_stain(stomach, recolour, depth):
    inside = stomach[150:200, 150:210]
    assert find_tissue(inside, 8.0).all()
    dense = 245 * (RECOLOURINGS[recolour](inside) / 245.0) ** depth
    survey = survey_overview(np.clip(dense, 0, 255).astype(np.uint8), 8.0)
    assert survey.tissue.mean() > 0.97


# -- faint tissue, and what is neither -----------------------------------------------------------------------


def film(image, density, soft, axes=(75, 60)):
    """A smooth film beside `TISSUE`, of one optical density, and where it lies."""
    where = ellipse(image.shape, (410, 310), axes)
    return image * 10 ** (-density * cv2.GaussianBlur(where.astype(float), (0, 0), soft)[..., None]), where


def test_a_pale_coloured_film_with_an_edge_is_tissue():
    image, where = film(stain(glass(), TISSUE, HE), np.array([0.02, 0.045, 0.02]), 1.0)
    assert_found(find_tissue(scanned(image, 0.7), 8.0), TISSUE | where, 0.9, margin=12)


@pytest.mark.parametrize(
    ("density", "soft", "axes"), [(0.02, 1.0, (75, 60)), (0.05, 8.0, (60, 45))], ids=["very faint", "small"]
)
def test_a_grey_film_that_is_not_taken_for_tissue_is_unexplained(density, soft, axes):
    image, where = film(stain(glass(), TISSUE, HE), density, soft, axes)
    survey = survey_overview(scanned(image, 0.7), 8.0)
    assert not survey.tissue[where].any()
    assert survey.unexplained[where].mean() > 0.7
    assert survey.unexplained_share > 0.1


def test_glass_with_ink_or_a_gap_between_tissue_is_not_unexplained():
    clean = stain(glass(), TISSUE | ellipse(glass().shape, (200, 355), (110, 60)), HE)
    inked = paint(clean, stroke(clean.shape, [(330, 60), (470, 80), (460, 200)], 50), (30, 30, 34))
    penned = paint(clean, stroke(clean.shape, [(330, 60), (470, 80), (460, 200)], 50), (40, 140, 60))
    for image in (clean, inked, penned):
        assert survey_overview(scanned(image, 1.0), 8.0).unexplained_share < 0.01


def test_grey_specks_alone_on_glass_are_no_tissue():
    image = stain(glass(), TISSUE, HE)
    for x, y in ((400, 60), (440, 120), (60, 350), (420, 330)):
        speck = cv2.GaussianBlur(ellipse(image.shape, (x, y), (9, 6)).astype(float), (0, 0), 3.0)
        image = image * 10 ** (-0.05 * speck * texture(speck.shape, x))[..., None]
    assert_found(find_tissue(scanned(image, 0.7), 8.0), TISSUE, margin=10)


def test_no_tissue_gives_no_share_of_it():
    survey = survey_overview(scanned(glass()), 8.0)
    assert survey.unexplained_share == 0
    assert survey_overview(np.zeros((0, 5, 3), np.uint8), 8.0).tissue.shape == (0, 5)


def test_what_is_darker_than_glass_is_measured():
    assert shaded_share(scanned(glass())) < 0.001
    dark = glass()
    dark[:40] = 100
    assert shaded_share(scanned(dark)) == pytest.approx(0.1, abs=0.01)
    assert shaded_share(np.zeros((0, 0, 3), np.uint8)) == 0
