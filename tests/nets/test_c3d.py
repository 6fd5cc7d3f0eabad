"""C3D: its counts, its last pool, and every naming its weights were published under."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from vgen_fast.nets import c3d
from vgen_fast.nets.c3d import C3D, SMALL_GROUPS, turned
from vgen_fast.nets.weights import BadWeights


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_parameters_are_those_of_the_papers():
    with torch.device("meta"):
        assert count(C3D(101)) == 78_409_573
        assert count(C3D(487)) == 79_991_015
        assert count(C3D(101, double_stride=True, size=(16, 224, 224))) == 78_409_573
        convolutions = sum(count(m) for m in C3D().modules() if isinstance(m, nn.Conv3d))
    assert convolutions == 27_655_936


def test_both_sizes_give_8192_features_and_the_same_shapes_on_the_way():
    with torch.device("meta"):
        for side, double in ((112, False), (224, True)):
            network = C3D(size=(16, side, side), double_stride=double)
            video = torch.empty(2, 3, 16, side, side)
            assert network.conv1a(video).shape == (2, 64, 16, 112, 112)
            seen = network(video)
            assert [tuple(x.shape) for x in seen] == [(2, 8192), (2, 4096), (2, 4096), (2, 4096), (2, 101)]


def test_the_last_pool_takes_windows_from_0_2_4_and_6():
    """Seven rows become four: the last window holds one row, and no padding comes before the first."""
    network = c3d.small(2, (16, 112, 112))
    seen = {}
    network.fc6.register_forward_pre_hook(lambda module, inputs: seen.update(pool=inputs[0]))
    network.conv5a.register_forward_hook(lambda module, inputs, output: seen.update(before=output.relu()))
    with torch.no_grad():
        network(torch.randn(1, 3, 16, 112, 112))
    before, pool = seen["before"][0].numpy(), seen["pool"].view(128, 1, 4, 4).numpy()
    assert before.shape == (128, 2, 7, 7)
    for i, j in itertools.product(range(4), range(4)):
        window = before[:, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
        np.testing.assert_array_equal(pool[:, 0, i, j], window.max(axis=(1, 2, 3)))


def test_features_are_relus_of_one_another():
    network = c3d.small(5, (8, 32, 32)).eval()
    with torch.no_grad():
        seen = network(torch.randn(2, 3, 8, 32, 32))
    torch.testing.assert_close(seen.fc6, seen.before_fc6.relu())
    torch.testing.assert_close(seen.before_fc6, seen.pool5 @ network.fc6.weight.T + network.fc6.bias)
    torch.testing.assert_close(seen.logits, seen.fc7 @ network.fc8.weight.T + network.fc8.bias)
    assert seen.pool5.shape == (2, 128)
    with pytest.raises(ValueError, match=r"video must be \[B, 3, 8, 32, 32\], got \[2, 3, 16, 32, 32\]"):
        network(torch.randn(2, 3, 16, 32, 32))


NARROW = ((4,), (4,), (4, 4), (4, 4), (4, 4))


@pytest.fixture
def narrow(monkeypatch):
    """The published shape with few channels, so that files are small."""
    monkeypatch.setattr(c3d, "C3D", lambda classes: C3D(classes, NARROW, 6))
    torch.manual_seed(0)
    network = C3D(3, NARROW, 6).eval()
    return network, {name: value.numpy() for name, value in network.state_dict().items()}


def same(found: C3D, network: C3D) -> None:
    for name, value in network.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], value, rtol=0, atol=0)


@pytest.mark.parametrize("suffix", ["", "-1"])
def test_caffe_s_names(tmp_path, narrow, suffix):
    from .caffe_files import forked_blob, old_net

    network, state = narrow
    layers = [name.removesuffix(".weight") for name in state if name.endswith("weight")]
    renamed = {f"{n}{suffix if n.startswith('fc') else ''}": [state[f"{n}.weight"], state[f"{n}.bias"]] for n in layers}
    (tmp_path / "net").write_bytes(old_net(renamed, forked_blob))
    same(c3d.load(tmp_path / "net"), network)


def test_chainer_s_and_torch_s_names(tmp_path, narrow):
    network, state = narrow
    chainer = {name.replace(".weight", "/W").replace(".bias", "/b"): value for name, value in state.items()}
    np.savez(tmp_path / "a.npz", **chainer)
    same(c3d.load(tmp_path / "a.npz"), network)
    short = {name.replace("1a", "1").replace("2a", "2"): torch.from_numpy(value) for name, value in state.items()}
    torch.save(short, tmp_path / "c3d.pickle", _use_new_zipfile_serialization=False)
    same(c3d.load(tmp_path / "c3d.pickle"), network)
    parallel = {f"module.{name}": value for name, value in network.state_dict().items()}
    torch.save({"state_dict": parallel}, tmp_path / "a.pt")
    same(c3d.load(tmp_path / "a.pt"), network)


def test_tensorflow_s_names_and_order(tmp_path, narrow):
    network, state = narrow
    renamed = {}
    for theirs, ours in c3d.TENSORFLOW.items():
        weight = state[f"{ours}.weight"]
        renamed[f"var_name/w{theirs}"] = weight.transpose(2, 3, 4, 1, 0) if weight.ndim == 5 else weight.T
        renamed[f"var_name/b{theirs}"] = state[f"{ours}.bias"]
    np.savez(tmp_path / "a.npz", **renamed)
    same(c3d.load(tmp_path / "a.npz"), network)


def test_rows_of_a_network_that_was_trained_in_tensorflow():
    """A picture whose value tells its place, flattened their way and ours, gives the same product."""
    picture = torch.randn(512, 4, 4, dtype=torch.float64)
    theirs = torch.randn(8192, 5, dtype=torch.float64)
    wanted = picture.permute(1, 2, 0).reshape(-1) @ theirs
    torch.testing.assert_close(turned(theirs, "d1", "hwc") @ picture.flatten(), wanted)
    assert not torch.allclose(turned(theirs, "d1", "chw") @ picture.flatten(), wanted)


def test_all_differences_are_told_at_once(tmp_path, narrow):
    _, state = narrow
    state = dict(state) | {"fc6.weight": state["fc6.weight"][:, :-1], "extra": np.zeros(1)}
    state["fc7.bias"] = np.full_like(state["fc7.bias"], np.nan)
    del state["conv3b.bias"]
    np.savez(tmp_path / "a.npz", **state)
    with pytest.raises(BadWeights) as said:
        c3d.load(tmp_path / "a.npz")
    shapes = "fc6.weight is [6, 63], wanted [6, 64]"
    for part in ("conv3b.bias is missing", "extra is not of", shapes, "fc7.bias has NaN"):
        assert part in str(said.value)
    np.savez(tmp_path / "b.npz", x=np.zeros(3))
    with pytest.raises(BadWeights, match="is no C3D: it has no fc8, only x"):
        c3d.load(tmp_path / "b.npz")


def test_the_small_one_takes_clips_of_its_size():
    assert len(SMALL_GROUPS) == 5
    assert c3d.small(8, (8, 32, 32))(torch.randn(2, 3, 8, 32, 32)).logits.shape == (2, 8)


def cube() -> torch.Tensor:
    """Colour c of row i and column j at frame t is 1000 c + 100 t + i / 10 + j / 1000."""
    c, t, i, j = (torch.arange(float(n)) for n in (3, 16, 128, 171))
    return 1000 * c[:, None, None, None] + 100 * t[:, None, None] + i[:, None] / 10 + j / 1000


def flat(height: int, width: int) -> torch.Tensor:
    """Clips whose red is 10, green 20 and blue 30."""
    colours = torch.tensor([10, 20, 30], dtype=torch.uint8)[None, :, None, None, None]
    return colours.expand(2, 3, 16, height, width)


@pytest.mark.parametrize(
    ("prepare", "size", "top", "left"),
    [(c3d.as_trained, (64, 80), 8, 29), (c3d.as_tgan, (64, 64), 8, 29), (c3d.as_tgan2, (64, 64), 8, 8)],
)
def test_each_way_cuts_its_own_part_of_the_mean(prepare, size, top, left):
    """The colours in the order blue, green, red; TGANv2 takes columns that are not the middle ones."""
    found = prepare(flat(*size), cube())
    assert found.shape == (2, 3, 16, 112, 112)
    wanted = torch.tensor([30.0, 20.0, 10.0])[:, None, None, None] - cube()[..., top : top + 112, left : left + 112]
    torch.testing.assert_close(found[1], wanted, atol=1e-3, rtol=0)


def test_sports_means_are_of_channels():
    found = c3d.as_davidea(flat(64, 64))
    torch.testing.assert_close(found[0, :, 3, 5, 7], torch.tensor([30 - 90.25, 20 - 97.66, 10 - 101.41]))


def test_stgan_s_keeps_red_green_blue_and_the_middle_of_the_longer_side():
    mean = torch.arange(3.0).expand(16, 112, 112, 3)
    torch.testing.assert_close(c3d.as_stgan(flat(240, 320), mean)[0, :, 0, 0, 0], torch.tensor([10.0, 19.0, 28.0]))
    ramp = torch.arange(224).to(torch.uint8).expand(1, 3, 16, 112, 224)  # the column
    found = c3d.as_stgan(ramp, torch.zeros(16, 112, 112, 3))
    assert abs(found[0, 0, 0, 0, 55:57].mean().item() - 111.5) < 1


def test_the_doubled_mean_of_the_condition_network():
    found = c3d.as_condition(flat(224, 224), cube())
    assert found.shape == (2, 3, 16, 224, 224)
    fine = c3d.doubled_cube(cube())
    assert fine.shape == (3, 16, 256, 342)
    torch.testing.assert_close(fine[..., ::2, ::2].add(fine[..., 1::2, 1::2]).div(2)[..., 5, 9], cube()[..., 5, 9])
    torch.testing.assert_close(found[0, 0, 2, 0, 0], 30 - fine[0, 2, 16, 58])
    with pytest.raises(ValueError, match="must be 224x224 pixels, got"):
        c3d.as_condition(flat(112, 112), cube())
