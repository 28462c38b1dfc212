"""Networks whose features are the same whichever way a patch lies, and their equivariant layers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from wsisum_cli.training.encoder.network import Network
from wsisum_cli.training.encoder.symmetry import MIRRORED, TURNED, Convolution, FieldType, Norm, settle

SOME, OTHERS = FieldType(2, 3), FieldType(1, 2)
WAYS = [(mirrored, quarters) for mirrored in (False, True) for quarters in range(4)]


def lie(maps: Tensor, mirrored: bool, quarters: int) -> Tensor:
    return (maps.flip(3) if mirrored else maps).rot90(quarters, (2, 3))


def moved(maps: Tensor, fields: FieldType, mirrored: bool, quarters: int) -> Tensor:
    """What the maps of `fields` become when the patch is made to lie that way."""
    maps = lie(maps, mirrored, quarters)
    for became in [MIRRORED] * mirrored + [TURNED] * quarters:
        maps = maps[:, fields.moved(became)]
    return maps


def test_the_ways_a_patch_may_lie():
    """Way 4 m + r is what lies as before once mirrored m times and turned r times."""
    patch = torch.rand(1, 1, 3, 3)
    ways = [lie(patch, mirrored, quarters) for mirrored, quarters in WAYS]
    for number, way in enumerate(ways):
        assert torch.equal(way.flip(3), ways[MIRRORED[number]])
        assert torch.equal(way.rot90(1, (2, 3)), ways[TURNED[number]])


@pytest.mark.parametrize(("mirrored", "quarters"), WAYS)
@pytest.mark.parametrize(("side", "stride", "padding"), [(3, 1, 1), (3, 2, 0), (3, 2, 1), (1, 1, 0), (6, 5, 0)])
def test_layers_turn_with_the_patch(mirrored: bool, quarters: int, side: int, stride: int, padding: int):
    torch.manual_seed(0)
    layer = nn.Sequential(Convolution(SOME, OTHERS, side, stride, padding), Norm(OTHERS), nn.ReLU())
    with torch.no_grad():
        for _ in range(2):
            layer(torch.randn(4, SOME.channels, 51, 51))  # running means of maps that do not turn
        settle(layer)
        maps = torch.randn(2, SOME.channels, 51, 51)
        there = layer(moved(maps, SOME, mirrored, quarters))
        assert torch.allclose(there, moved(layer(maps), OTHERS, mirrored, quarters), atol=1e-5)
        assert there.std() > 0.1


def test_untied_layers_do_not_turn_with_the_patch():
    torch.manual_seed(0)
    layer, maps = nn.Conv2d(SOME.channels, OTHERS.channels, 3, padding=1), torch.randn(2, SOME.channels, 9, 9)
    with torch.no_grad():
        assert not torch.allclose(layer(moved(maps, SOME, True, 1)), moved(layer(maps), OTHERS, True, 1), atol=0.1)


def test_filters_are_as_large_as_others_and_as_free_as_they_may_be():
    torch.manual_seed(0)
    tied, free = Convolution(FieldType(0, 8), FieldType(0, 8), 3).tied().detach(), nn.Conv2d(64, 64, 3).weight.detach()
    assert float(tied.std() / free.std()) == pytest.approx(1, rel=0.05)
    assert len(torch.unique(tied.round(decimals=7))) == pytest.approx(64 * 64 * 9 / 8, rel=0.01)


@pytest.fixture(scope="module")
def network() -> Network:
    torch.manual_seed(0)
    network = Network((FieldType(2, 1), FieldType(4, 1), FieldType(4, 2), FieldType(8, 2)))
    with torch.no_grad():
        network(torch.randn(4, 3, 136, 136))
    return network.eval()


@pytest.mark.parametrize(("mirrored", "quarters"), WAYS)
@pytest.mark.parametrize("side", [136, 176, 256])
def test_features_are_the_same_whichever_way_a_patch_lies(network: Network, side: int, mirrored: bool, quarters: int):
    patches = torch.randn(3, 3, side, side)
    with torch.no_grad():
        upright, lying = network(patches), network(lie(patches, mirrored, quarters))
    assert torch.allclose(lying, upright, atol=1e-5)
    assert (upright[0] - upright[1]).abs().max() > 0.01


def test_features_differ_where_a_layer_leaves_out_a_row(network: Network):
    patches = torch.randn(3, 3, 146, 146)
    with torch.no_grad():
        assert (network(patches) - network(lie(patches, False, 2))).abs().max() > 1e-3


def test_settled_networks_have_plain_layers_that_do_the_same():
    torch.manual_seed(0)
    network = Network((FieldType(2, 1), FieldType(4, 1), FieldType(4, 2), FieldType(8, 2)))
    patches = torch.randn(4, 3, 136, 136)
    with torch.no_grad():
        network(patches)
        expected = network.eval()(patches)
        settle(network)
        assert torch.allclose(network(patches), expected, atol=1e-5)
    assert {type(layer) for layer in network.modules()} & {Convolution, Norm} == set()
