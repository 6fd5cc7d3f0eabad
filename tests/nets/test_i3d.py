"""I3D: its counts, TensorFlow's padding against windows that are written out, and the names its weights have."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vgen_fast.nets import i3d
from vgen_fast.nets.i3d import I3D, WIDTHS, load, same
from vgen_fast.nets.weights import BadWeights


def test_parameters_and_channels_are_those_of_the_paper():
    with torch.device("meta"):
        network = I3D()
        assert sum(p.numel() for p in network.parameters()) == 12_697_264
        assert sum(p.numel() for p in network.logits.parameters()) == 410_000
        assert network(torch.empty(2, 3, 16, 224, 224)).shape == (2, 400)
        assert network(torch.empty(1, 3, 9, 224, 224)).shape == (1, 400)
    outputs = [widths[0] + widths[2] + widths[4] + widths[5] for widths in WIDTHS.values()]
    assert outputs == [256, 480, 512, 512, 512, 528, 832, 832, 1024]


@pytest.mark.parametrize("size", [(5, 7, 8), (8, 9, 12), (16, 14, 7)])
@pytest.mark.parametrize(("window", "stride"), [((7, 7, 7), (2, 2, 2)), ((1, 3, 3), (1, 2, 2)), ((2, 2, 2), (2, 2, 2))])
def test_padding_is_tensorflow_s(size, window, stride):
    """ceil(n / s) windows; the i-th begins at s i - floor(over / 2), over = (ceil(n / s) - 1) s + k - n, at least 0."""
    x = torch.rand(1, 1, *size)
    found = F.max_pool3d(same(x, window, stride), window, stride)[0, 0]
    assert found.shape == tuple(-(-n // s) for n, s in zip(size, stride, strict=True))
    for place in np.ndindex(*found.shape):
        slices = []
        for i, n, k, s in zip(place, size, window, stride, strict=True):
            over = max(0, (-(-n // s) - 1) * s + k - n)
            first = s * i - over // 2
            slices.append(slice(max(0, first), first + k))
        assert found[place] == x[0, 0][tuple(slices)].max()


def test_preparing_is_bilinear_frame_by_frame_from_minus_1_to_1():
    video = torch.randint(256, (2, 3, 4, 56, 70), dtype=torch.uint8)
    found = I3D.prepare(None, video)
    assert found.shape == (2, 3, 4, 224, 224)
    one = F.interpolate(video[1, :, 2].float()[None], (224, 224), mode="bilinear", align_corners=False)[0] / 127.5 - 1
    torch.testing.assert_close(found[1, :, 2], one)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    network = I3D()
    for name, value in network.state_dict().items():
        if "running" in name:
            value.uniform_(0.5, 1.5)
    return network.eval()


def same_numbers(found: I3D, network: I3D, gains: bool = True) -> None:
    for name, value in network.state_dict().items():
        if gains or not name.endswith("bn.weight"):
            assert torch.equal(found.state_dict()[name], value), name


def test_names_of_piergiaj_and_of_hassony2(tmp_path, network):
    torch.save(network.state_dict(), tmp_path / "a.pt")
    same_numbers(load(tmp_path / "a.pt"), network)
    theirs = {}
    for name, value in network.state_dict().items():
        name = name.replace("logits.conv3d", "conv3d_0c_1x1.conv3d").replace(".bn.", ".batch3d.")
        name = name.replace("Conv3d", "conv3d").replace("Mixed", "mixed")
        for branch, ours in i3d.HASSONY_BRANCHES.items():
            name = name.replace(f".{ours}.", f".branch_{branch}.")
        theirs[name] = value
    assert "mixed_4b.branch_1.1.batch3d.running_mean" in theirs
    torch.save(theirs, tmp_path / "b.pth")
    same_numbers(load(tmp_path / "b.pth"), network)


def test_deepmind_s_variables_without_a_gain(tmp_path, network):
    parts = {ours: theirs for theirs, ours in i3d.DEEPMIND_PARTS.items()}
    theirs = {}
    for name, value in network.state_dict().items():
        unit, _, part = name.rpartition(".conv3d.") if ".conv3d." in name else name.rpartition(".bn.")
        kind = "conv3d." if ".conv3d." in name else "bn."
        if part in ("num_batches_tracked", "weight") and kind == "bn.":
            continue
        block, _, branch = unit.partition(".")
        odd = block == "Mixed_5b" and branch == "b2b"
        branches = {ours: there for there, ours in i3d.DEEPMIND_BRANCHES.items() if ("0a_3x3" in there) <= odd}
        block = block.replace("logits", "Logits/Conv3d_0c_1x1")
        where = f"RGB/inception_i3d/{block}/{branches[branch]}" if branch else f"RGB/inception_i3d/{block}"
        array = value.numpy()
        shaped = array.transpose(2, 3, 4, 1, 0) if array.ndim == 5 else array
        theirs[f"{where}/{parts[kind + part]}"] = shaped.reshape(1, 1, 1, 1, -1) if kind == "bn." else shaped
    assert "RGB/inception_i3d/Mixed_5b/Branch_2/Conv3d_0a_3x3/conv_3d/w" in theirs
    np.savez(tmp_path / "a.npz", **theirs)
    found = load(tmp_path / "a.npz")
    same_numbers(found, network, gains=False)
    assert all((value == 1).all() for name, value in found.state_dict().items() if name.endswith("bn.weight"))


def test_a_wrong_network_and_too_few_frames_are_refused(tmp_path):
    torch.save({"fc.weight": torch.ones(2)}, tmp_path / "a.pt")
    with pytest.raises(BadWeights, match=r"is no I3D: it has no logits, only fc\.weight"):
        load(tmp_path / "a.pt")
    with torch.device("meta"), pytest.raises(ValueError, match="with 9 frames at least, got"):
        I3D()(torch.empty(1, 3, 8, 224, 224))
