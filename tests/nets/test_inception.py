"""Inception v3 of FID: counts, taps, and the poolings in which it differs from torchvision's."""

import pytest
import torch
import torch.nn.functional as F

from vgen_fast.nets.inception import A, E, Inception, average, load, prepare
from vgen_fast.nets.weights import BadWeights


def test_parameters_and_taps_are_those_of_the_file():
    with torch.device("meta"):
        network = Inception()
        assert sum(p.numel() for p in network.fc.parameters()) == 2_065_392
        assert sum(p.numel() for p in network.parameters()) == 23_850_960
        seen = network(torch.empty(2, 3, 299, 299))
    shapes = [(2, 64, 73, 73), (2, 192, 35, 35), (2, 768, 17, 17), (2, 2048), (2, 1008)]
    assert [tuple(x.shape) for x in seen] == shapes


def test_averages_leave_the_padding_out():
    x = torch.ones(1, 1, 4, 4)
    assert torch.equal(average(x), x)


@pytest.mark.parametrize("last", [False, True])
def test_the_pool_of_the_last_block_is_a_maximum(last):
    torch.manual_seed(0)
    block, x = E(8, last).eval(), torch.randn(1, 8, 5, 5)
    pooled = F.max_pool2d(x, 3, 1, 1) if last else F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
    with torch.no_grad():
        torch.testing.assert_close(block(x)[:, -192:], block.branch_pool(pooled))
        torch.testing.assert_close(block(x)[:, 320:704], block.branch3x3_2a(block.branch3x3_1(x)))


def test_a_block_is_its_branches_in_order():
    torch.manual_seed(0)
    block, x = A(8, 32).eval(), torch.randn(1, 8, 5, 5)
    with torch.no_grad():
        found = block(x).split([64, 64, 96, 32], dim=1)
        torch.testing.assert_close(found[1], block.branch5x5_2(block.branch5x5_1(x)))
        torch.testing.assert_close(found[2], block.branch3x3dbl_3(block.branch3x3dbl_2(block.branch3x3dbl_1(x))))


def test_the_published_state_dict_has_no_counters_and_is_read(tmp_path):
    torch.manual_seed(0)
    network = Inception()
    state = {name: value for name, value in network.state_dict().items() if "num_batches" not in name}
    theirs = {"Conv2d_1a_3x3.conv.weight", "Mixed_6b.branch7x7dbl_5.bn.running_var", "Mixed_7c.branch3x3_2b.bn.bias"}
    assert theirs < set(state)
    torch.save(state, tmp_path / "a.pth")
    found = load(tmp_path / "a.pth").state_dict()
    assert all(torch.equal(value, found[name]) for name, value in state.items())
    torch.save({"fc.weight": state["fc.weight"]}, tmp_path / "b.pth")
    with pytest.raises(BadWeights, match="is no Inception: it has no fc"):
        load(tmp_path / "b.pth")


def test_preparing_is_bilinear_from_minus_1_to_1():
    pictures = torch.tensor([0, 255], dtype=torch.uint8)[:, None, None, None].expand(2, 3, 7, 9)
    found = prepare(pictures)
    assert found.shape == (2, 3, 299, 299)
    torch.testing.assert_close(found[0], torch.full((3, 299, 299), -1.0))
    torch.testing.assert_close(found[1], torch.ones(3, 299, 299))
