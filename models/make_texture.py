"""Make texture.onnx, the interim patch encoder: colour deconvolution and multi-scale texture statistics.

Nothing is learned. The graph takes 256 px RGB patches at 0.5 µm/px, separates the stains (Ruifrok and
Johnston 2001), describes each stain by the strength, shape and direction of its gradients on four scales
(1, 2, 4 and 8 µm/px) and by how the gradients of one scale vary on the next (second-order scattering, Bruna
and Mallat 2013), adds colour histograms, and brings the numbers to a common scale.

    python models/make_texture.py                                  from the constants in texture.json
    python models/make_texture.py --tiles atlas-he-0.5mpp.zip      measures these constants first
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import ArrayLike, NDArray
from onnx import TensorProto, helper, numpy_helper

HERE = Path(__file__).resolve().parent
PATCH = 256  # px
HALF = PATCH // 2  # everything but the finest detail is computed at half the resolution, 1 µm/px
LEVELS = 4  # scales on which gradients are described

DARK = 0.004  # about 1/255, so that black has a finite optical density
WEAK = 0.01  # a gradient of this optical density per px is noise
CLIP = 4.0  # standard deviations

HAEMATOXYLIN = (0.65, 0.70, 0.29)  # optical density in R, G, B: Ruifrok and Johnston 2001
EOSIN = (0.07, 0.99, 0.11)

CARD = {
    "name": "texture",
    "version": "1",
    "kind": "encoder",
    "patch_size": PATCH,
    "mpp": 0.5,
    "mpp_tolerance": 0.1,
    "mean": [0.0, 0.0, 0.0],
    "std": [1.0, 1.0, 1.0],
    "licence": "Apache-2.0",
    "description": (
        "Interim encoder for H&E: colour deconvolution and multi-scale texture statistics; no learning. "
        "Its scale comes from tiles of the Pathology Atlas."
    ),
}

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Constants:
    """What brings the raw statistics to a common scale; one number per dimension.

    `weight` says how reliable a statistic is within slides: the share of its variance in the left halves of
    tiles that the right halves explain, after taking out each slide's mean.
    """

    mean: list[float]
    std: list[float]
    weight: list[float]
    tiles: int
    source_sha256: str


# ---------------------------------------------------------------------------------------------- the graph


class Graph:
    """Collects nodes and constants; every tensor is known by its name."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._known: dict[tuple[bytes, tuple[int, ...], str], str] = {}

    def constant(self, values: ArrayLike, dtype: type[np.generic] = np.float32) -> str:
        array = np.asarray(values, dtype)
        key = (array.tobytes(), array.shape, array.dtype.str)
        if key not in self._known:
            self._known[key] = f"constant_{len(self._known)}"
            self.constants.append(numpy_helper.from_array(array, self._known[key]))
        return self._known[key]

    def integers(self, *values: int) -> str:
        return self.constant(values, np.int64)

    def split(self, x: str, sizes: list[int], axis: int = 1) -> list[str]:
        outputs = [f"Split_{len(self.nodes)}_{i}" for i in range(len(sizes))]
        self.nodes.append(helper.make_node("Split", [x, self.integers(*sizes)], outputs, axis=axis))
        return outputs

    def __call__(self, kind: str, *inputs: str | float | Array, **attributes: Any) -> str:
        """Add one node; numbers and arrays among its inputs become float32 constants."""
        names = [x if isinstance(x, str) else self.constant(x) for x in inputs]
        output = f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, names, [output], **attributes))
        return output

    def reshape(self, x: str, *shape: int) -> str:
        return self("Reshape", x, self.integers(*shape))

    def pool(self, x: str, size: int) -> str:
        return self("AveragePool", x, kernel_shape=[size, size], strides=[size, size])

    def mix(self, x: str, matrix: Array, bias: Array | None = None, stride: int = 1) -> str:
        """A linear map of the channels: (B, C, n, n) -> (B, rows of `matrix`, n, n)."""
        offsets = [] if bias is None else [bias]
        return self("Conv", x, matrix[:, :, None, None], *offsets, strides=[stride, stride])

    def filter(self, x: str, filters: Array, stride: int = 1) -> str:
        """3 x 3 filters (F, 1, 3, 3) over planes (B, 1, n, n), whose borders go on; (B, F, n / stride, same).

        The planes keep a power of two for their side. The sum of a plane that does not begin at a multiple of
        16 numbers is rounded otherwise, and a patch's features would depend on its place in the batch.
        """
        framed = self("Pad", x, self.integers(0, 0, 1, 1, 0, 0, 1, 1), mode="edge")
        return self("Conv", framed, filters, strides=[stride, stride])

    def average(self, x: str) -> str:
        return self("ReduceMean", x, axes=[2, 3], keepdims=0)

    def power(self, x: str, size: int) -> str:
        """Mean square over the plane: (B, C, size, size) -> (B, C)."""
        return self("Mul", self("ReduceSumSquare", x, axes=[2, 3], keepdims=0), 1 / size**2)


@dataclass(frozen=True)
class Statistic:
    """One group of raw numbers: the tensor `values` is (B, dims)."""

    name: str
    values: str
    dims: int


def unmixing() -> Array:
    """Optical density (R, G, B) -> amount of haematoxylin, eosin, residual; (3, 3), rows are stains."""
    stains = np.array([HAEMATOXYLIN, EOSIN])
    stains /= np.linalg.norm(stains, axis=1, keepdims=True)
    residual = np.cross(*stains)
    stains = np.vstack([stains, residual / np.linalg.norm(residual)])
    inverse: Array = np.linalg.inv(stains).T
    return inverse.round(6)


def halving() -> Array:
    """Filters (6, 1, 2, 6) over rows of interleaved RGB: mean R, G, B and luminance detail of 2 x 2 px."""
    filters = np.zeros((6, 1, 2, 6))
    for channel in range(3):
        filters[channel, 0, :, channel::3] = 1 / 4
    luminance = np.array([0.299, 0.587, 0.114])
    signs = np.array([[[1, -1], [1, -1]], [[1, 1], [-1, -1]], [[1, -1], [-1, 1]]])
    filters[3:, 0] = np.kron(signs, luminance) / 4
    return filters / 255


def gradients() -> Array:
    """Filters (4, 1, 3, 3): the gradient along x, y and the diagonal (Sobel), and the Laplacian."""
    along_x = np.outer([1, 2, 1], [-1, 0, 1]) / 8
    laplacian = np.array([[1, 2, 1], [2, -12, 2], [1, 2, 1]]) / 8
    return np.stack([along_x, along_x.T, (along_x + along_x.T) / np.sqrt(2), laplacian])[:, None]


def ramp(low: float, high: float) -> tuple[float, float]:
    """Slope and offset that take `low` to 0 and `high` to 1."""
    return 1 / (high - low), -low / (high - low)


def planes(g: Graph) -> tuple[str, str, str]:
    """The three stains and R, G, B, each (B, 3, 128, 128) at 1 µm/px, and the luminance detail lost by it."""
    rows = g.reshape(g("Cast", "pixels", to=TensorProto.FLOAT), -1, 1, PATCH, 3 * PATCH)
    rgb, detail = g.split(g("Conv", rows, halving(), strides=[2, 6]), [3, 3])
    density = g("Log", g("Max", rgb, DARK))
    return g.mix(density, -unmixing()), rgb, detail


def every_second(g: Graph, x: str) -> str:
    return g("Slice", x, g.integers(0, 0), g.integers(HALF, HALF), g.integers(2, 3), g.integers(2, 2))


def colours(g: Graph, stains: str, rgb: str) -> str:
    """(B, 5, 64, 64): haematoxylin, eosin, residual, saturation, green."""
    rgb = every_second(g, rgb)
    red, green, blue = g.split(rgb, [1, 1, 1])
    saturation = g("Sub", g("Max", red, green, blue), g("Min", red, green, blue))
    return g("Concat", every_second(g, stains), saturation, green, axis=1)


def histogram(g: Graph, colour: str) -> Statistic:
    """Soft cumulative histograms: the share of pixels above each edge, with a ramp of one bin."""
    edges = [(-0.05, 1.3, 8), (-0.05, 1.2, 8), (-0.3, 0.3, 6), (0.0, 0.5, 4), (0.3, 1.0, 6)]
    rows, offsets = [], []
    for channel, (low, high, bins) in enumerate(edges):
        borders = np.linspace(low, high, bins + 1)
        for left, right in itertools.pairwise(borders):
            slope, offset = ramp(left, right)
            rows.append(slope * np.eye(5)[channel])
            offsets.append(offset)
    shares = g("Clip", g.mix(colour, np.array(rows), np.array(offsets)), 0.0, 1.0)
    dims = len(rows)
    return Statistic("histogram", g.reshape(g("GlobalAveragePool", shares), -1, dims), dims)


def granularity(g: Graph, colour: str) -> list[Statistic]:
    """How dark haematoxylin (nuclei) and white (lumina, fat) clump on scales of 4, 8, 16, 32 µm."""
    (nuclear, nuclear_offset), (white, white_offset) = ramp(0.45, 0.65), ramp(0.8, 0.92)
    matrix = np.array([[nuclear, 0, 0, 0, 0], [0, 0, 0, 0, white]])
    x = g("Clip", g.mix(colour, matrix, np.array([nuclear_offset, white_offset])), 0.0, 1.0)
    found = []
    for level in range(1, 5):
        x = g.pool(x, 2)
        power = g.power(x, (HALF // 2) >> level)
        found.append(Statistic(f"granularity{level}", g("Add", g("Sqrt", power), WEAK), 2))
    return found


PAIRS = np.array([[1, 1, 0], [1, 0, 1], [0, 1, 1]]) / np.sqrt(2)  # of stains


def spread(g: Graph, pyramid: list[str]) -> list[Statistic]:
    """Mean, standard deviation per scale, and the correlation of the stains on 1, 4 and 16 µm/px."""
    mean = g.average(pyramid[-1])
    directions = np.vstack([np.eye(3), PAIRS])
    squares = g("MatMul", mean, directions.T)
    squares = g("Mul", squares, squares)
    found = [Statistic("mean", mean, 3)]
    for level, x in enumerate(pyramid):
        stride = 2 if level == 0 else 1
        power = g.power(g.mix(x, directions, stride=stride), (HALF >> level) // stride)
        own, paired = g.split(g("Max", g("Sub", power, squares), 0.0), [3, 3])
        if level > 0:
            found.append(Statistic(f"deviation{level}", g("Sqrt", own), 3))
        if level % 2 == 0:
            found.append(Statistic(f"correlation{level}", correlation(g, own, paired), 3))
    return found


def correlation(g: Graph, own: str, paired: str) -> str:
    """Of H and E, H and R, E and R, from the variances of the stains and of their (scaled) sums."""
    covariance = g("Sub", paired, g("MatMul", own, PAIRS.T / np.sqrt(2)))
    first = g("Gather", own, g.integers(0, 0, 1), axis=1)
    second = g("Gather", own, g.integers(1, 2, 2), axis=1)
    return g("Div", covariance, g("Sqrt", g("Add", g("Mul", first, second), 1e-6)))


@dataclass(frozen=True)
class Edges:
    """Gradients of one scale: `magnitude` is (B * 3, 1, n, n), its `mean` (B, 3) and not 0."""

    magnitude: str
    mean: str


def edges(g: Graph, x: str, level: int) -> tuple[Edges, list[Statistic], list[Statistic]]:
    """The gradients of one scale and their statistics: first those to take the logarithm of."""
    size, stride = HALF >> level, 2 if level == 0 else 1
    filtered = g.filter(g.reshape(x, -1, 1, size, size), gradients(), stride)
    slope, _, laplacian = g.split(filtered, [2, 1, 1])
    magnitude = g("ReduceL2", slope, axes=[1], keepdims=1)
    mean = g("Add", g.reshape(g.average(magnitude), -1, 3), WEAK)
    parts = g.split(g.reshape(g.power(filtered, size // stride), -1, 3, 4), [1, 1, 1, 1], axis=2)
    xx, yy, diagonal, curvature = (g.reshape(part, -1, 3) for part in parts)
    total, curvature = g("Add", xx, yy), g("Add", curvature, WEAK**2)
    logarithmic = [
        Statistic(f"gradient{level}", mean, 3),
        Statistic(f"contrast{level}", g("Add", g("Div", total, g("Mul", mean, mean)), 0.1), 3),
        Statistic(f"curvature{level}", curvature, 3),
    ]
    linear = [
        Statistic(f"direction{level}", direction(g, xx, yy, diagonal, total), 3),
        Statistic(f"polarity{level}", polarity(g, laplacian, curvature), 3),
    ]
    return Edges(magnitude, mean), logarithmic, linear


def direction(g: Graph, xx: str, yy: str, diagonal: str, total: str) -> str:
    """Coherence of the structure tensor, 0..1: whether the gradients share one direction, not which."""
    straight = g("Sub", xx, yy)
    slanted = g("Sub", g("Add", diagonal, diagonal), total)
    length = g("Sqrt", g("Add", g("Mul", straight, straight), g("Mul", slanted, slanted)))
    return g("Div", length, g("Add", total, WEAK**2))


def polarity(g: Graph, laplacian: str, curvature: str) -> str:
    """Whether blobs are dark on pale or pale on dark, -1..1."""
    signed = g.reshape(g.average(g("Mul", laplacian, g("Abs", laplacian))), -1, 3)
    return g("Div", signed, curvature)


def scattering(g: Graph, scales: list[Edges]) -> list[Statistic]:
    """How the gradient strength of one scale varies on each coarser one, relative to its mean."""
    found = []
    for fine, source in enumerate(scales[:-1]):
        for coarse in range(fine + 1, LEVELS):
            # the finest gradients already lie 2 µm apart
            size = 2 ** (coarse - max(fine, 1))
            x = g.pool(source.magnitude, size) if size > 1 else source.magnitude
            slope = g.filter(x, gradients()[:2])
            strength = g.average(g("ReduceL2", slope, axes=[1], keepdims=1))
            strength = g("Add", g.reshape(strength, -1, 3), WEAK / 2)
            found.append(Statistic(f"scattering{fine}{coarse}", g("Div", strength, source.mean), 3))
    return found


def statistics(g: Graph) -> tuple[list[Statistic], list[Statistic]]:
    """All raw statistics: those to take the logarithm of, and the rest."""
    stains, rgb, detail = planes(g)
    colour = colours(g, stains, rgb)
    pyramid = [stains]
    for _ in range(LEVELS):
        pyramid.append(g.pool(pyramid[-1], 2))
    horizontal, vertical, diagonal = g.split(g.power(detail, HALF), [1, 1, 1])
    upright = g("Add", g("Add", horizontal, vertical), 1e-5)
    logarithmic = [
        Statistic("detail", g("Concat", upright, g("Add", diagonal, 1e-5), axis=1), 2),
        *granularity(g, colour),
    ]
    linear = [histogram(g, colour), *spread(g, pyramid)]
    scales = []
    for level in range(LEVELS):
        scale, more_logarithmic, more_linear = edges(g, pyramid[level], level)
        scales.append(scale)
        logarithmic += more_logarithmic
        linear += more_linear
    return logarithmic + scattering(g, scales), linear


def standardise(g: Graph, raw: str, constants: Constants) -> str:
    """Clipped standard scores, weighted, at unit length."""
    centred = g("Sub", raw, np.array(constants.mean))
    scores = g("Clip", g("Div", centred, np.array(constants.std)), -CLIP, CLIP)
    weighted = g("Mul", scores, np.array(constants.weight))
    length = g("ReduceL2", weighted, axes=[1], keepdims=1)
    return g("Div", weighted, g("Max", length, 1e-6))


def build(constants: Constants | None) -> tuple[onnx.ModelProto, list[str]]:
    """The model and the name of each dimension; without `constants` it gives the raw statistics."""
    g = Graph()
    logarithmic, linear = statistics(g)
    # One logarithm over a multiple of 16 columns: vectorised and scalar code round it differently.
    logs = g("Log", g("Concat", *(s.values for s in logarithmic), axis=1))
    raw = g("Concat", logs, *(s.values for s in linear), axis=1)
    result = raw if constants is None else standardise(g, raw, constants)
    g.nodes.append(helper.make_node("Identity", [result], ["features"]))
    names = [f"{s.name}.{i}" for s in logarithmic + linear for i in range(s.dims)]
    pixels = helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["batch", PATCH, PATCH, 3])
    features = helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", len(names)])
    graph = helper.make_graph(g.nodes, "texture", [pixels], [features], g.constants)
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=8, producer_name="wsisum")
    helper.set_model_props(model, {"wsisum.card": json.dumps(CARD | {"dims": len(names)}, sort_keys=True)})
    onnx.checker.check_model(model)
    return model, names


# ------------------------------------------------------------------------------------------- the constants


def read_tiles(archive: Path) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Slide (the tile's folder) and pixels of each JPEG in the ZIP, in order of their names."""
    import simplejpeg

    with zipfile.ZipFile(archive) as tiles:
        for name in sorted(n for n in tiles.namelist() if n.endswith(".jpg")):
            yield name.rpartition("/")[0], simplejpeg.decode_jpeg(tiles.read(name))


def mirrored_halves(tile: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """The left and the right half of a tile, each made a whole tile by its mirror image."""
    left, right = tile[:, : PATCH // 2], tile[:, PATCH // 2 :]
    return [np.concatenate([half, half[:, ::-1]], axis=1) for half in (left, right)]


def describe(tiles: Iterator[tuple[str, NDArray[np.uint8]]]) -> tuple[list[str], Array]:
    """Slides (N,), and raw statistics (3, N, D) of whole tiles, left halves and right halves."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    model = build(None)[0].SerializeToString()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    slides, raw = [], []
    for slide, tile in tiles:
        slides.append(slide)
        raw.append(session.run(None, {"pixels": np.stack([tile, *mirrored_halves(tile)])})[0])
    return slides, np.stack(raw, axis=1).astype(np.float64)


def reliability(slides: list[str], left: Array, right: Array) -> Array:
    """Squared correlation, over all tiles, of two halves' statistics (N, D) without slide means: (D,)."""
    left, right = left.copy(), right.copy()
    for slide in sorted(set(slides)):
        rows = np.array(slides) == slide
        left[rows] -= left[rows].mean(axis=0)
        right[rows] -= right[rows].mean(axis=0)
    variance = np.sqrt((left**2).sum(axis=0) * (right**2).sum(axis=0))
    correlation: Array = (left * right).sum(axis=0) / np.maximum(variance, 1e-12)
    return correlation.clip(0, 1) ** 2


def rounded(values: Array) -> list[float]:
    """To four significant digits: below that, processors differ."""
    return [float(f"{v:.3e}") for v in values]


def measure(archive: Path) -> Constants:
    """The constants, from the H&E tiles (256 px JPEG at 0.5 µm/px, one folder per slide) in a ZIP."""
    slides, (whole, left, right) = describe(read_tiles(archive))
    return Constants(
        mean=rounded(whole.mean(axis=0)),
        std=rounded(np.maximum(whole.std(axis=0), 1e-3)),
        weight=rounded(reliability(slides, left, right)),
        tiles=len(slides),
        source_sha256=hashlib.sha256(archive.read_bytes()).hexdigest(),
    )


def load_constants(path: Path = HERE / "texture.json") -> Constants:
    recorded = json.loads(path.read_text(encoding="utf-8"))
    columns = {key: [row[key] for row in recorded["dims"].values()] for key in ("mean", "std", "weight")}
    return Constants(**columns, tiles=recorded["tiles"], source_sha256=recorded["source_sha256"])


def save_constants(constants: Constants, names: list[str], path: Path) -> None:
    """One line per dimension, so that a difference can be read."""
    c = asdict(constants)
    columns = zip(names, c["mean"], c["std"], c["weight"], strict=True)
    rows = [f'  "{n}": {json.dumps({"mean": m, "std": s, "weight": w})}' for n, m, s, w in columns]
    head = f'{{\n "tiles": {c["tiles"]},\n "source_sha256": "{c["source_sha256"]}",\n "dims": {{\n'
    path.write_text(head + ",\n".join(rows) + "\n }\n}\n", encoding="utf-8", newline="\n")


def main() -> None:
    parser = argparse.ArgumentParser(description="Make texture.onnx.")
    parser.add_argument("--tiles", type=Path, metavar="ZIP", help="measure the constants on these tiles")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", default=HERE / "texture.onnx")
    arguments = parser.parse_args()
    constants = measure(arguments.tiles) if arguments.tiles else load_constants()
    model, names = build(constants)
    data = model.SerializeToString(deterministic=True)
    arguments.output.write_bytes(data)
    if arguments.tiles:
        save_constants(constants, names, arguments.output.with_suffix(".json"))
    digest = hashlib.sha256(data).hexdigest()
    print(f"{arguments.output}: {len(names)} dims, {len(data):,} bytes, sha256 {digest}")


if __name__ == "__main__":
    main()
