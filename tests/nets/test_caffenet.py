"""CaffeNet, AlexNet and LRCN: counts, orders that are easily mistaken, and their files."""

import numpy as np
import pytest
import torch
from torch import nn

from vgen_fast.nets import caffenet, lrcn
from vgen_fast.nets.caffenet import CaffeNet, norm, pool, prepare
from vgen_fast.nets.lrcn import LRCN, exchanged
from vgen_fast.nets.weights import BadWeights

from .caffe_files import new_net, old_net


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def test_parameters_and_shapes_are_those_of_the_files():
    with torch.device("meta"):
        network = CaffeNet()
        assert count(network) == 60_965_224
        assert [count(layer) for layer in network.convolutions.children()] == [34944, 307456, 885120, 663936, 442624]
        seen = network(torch.empty(2, 3, 227, 227))
        assert [tuple(x.shape) for x in seen] == [(2, 256, 6, 6), (2, 4096), (2, 4096), (2, 1000)]
        recurrent = LRCN()
        assert count(recurrent) == 65_421_285
        counts = [count(layer) for layer in recurrent.convolutions.children()]
        assert counts == [14208, 461184, 1769984, 1180160, 885120]
        assert recurrent(torch.empty(2, 3, 5, 227, 227)).shape == (2, 5, 101)


def test_sizes_of_lrcn_s_maps_are_those_of_the_table():
    seen = []
    with torch.device("meta"):
        network = LRCN()
        for layer in network.convolutions.children():
            layer.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[-1]))
        last = network.convolutions(torch.empty(1, 3, 227, 227))
    assert (*seen, last.shape[-1]) == (111, 26, 13, 13, 13, 6)


def test_the_norm_is_caffe_s_formula():
    x = np.random.default_rng(0).normal(size=(2, 9, 3, 3)) * 30
    wanted = np.empty_like(x)
    for c in range(9):
        near = x[:, max(0, c - 2) : c + 3]
        wanted[:, c] = x[:, c] / (1 + 1e-4 / 5 * (near**2).sum(axis=1)) ** 0.75
    np.testing.assert_allclose(norm(torch.from_numpy(x)), wanted)


def test_pools_count_a_window_that_begins_inside():
    x = torch.arange(36.0).view(1, 1, 6, 6)
    assert pool(x).tolist() == [[[[14, 16, 17], [26, 28, 29], [32, 34, 35]]]]


def test_caffenet_pools_first_and_alexnet_norms_first():
    torch.manual_seed(0)
    x = torch.rand(1, 3, 227, 227) * 200
    for norm_first, steps in ((False, (pool, norm)), (True, (norm, pool))):
        layers = caffenet.Convolutions(norm_first=norm_first)
        seen = {}
        layers.conv2.register_forward_pre_hook(lambda module, inputs, seen=seen: seen.update(x=inputs[0]))
        with torch.no_grad():
            layers(x)
            first = layers.conv1(x).relu()
        torch.testing.assert_close(seen["x"], steps[1](steps[0](first)))


def test_colours_are_blue_green_red_less_their_means():
    picture = torch.tensor([10, 20, 30], dtype=torch.uint8)[:, None, None].expand(3, 2, 2)  # red, green, blue
    assert prepare(picture)[:, 0, 0].tolist() == [30 - 104, 20 - 117, 10 - 123]


def written_out(gates: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """Caffe's LSTM: gates in the order i, f, o, g."""
    h, c, out = np.zeros(256), np.zeros(256), []
    for row in x:
        i, f, o, g = np.split(gates["x"] @ row + gates["b"] + gates["h"] @ h, 4)
        i, f, o, g = *(1 / (1 + np.exp(-gate)) for gate in (i, f, o)), np.tanh(g)
        c = f * c + i * g
        h = o * np.tanh(c)
        out.append(h)
    return np.stack(out)


def test_gates_are_exchanged_into_torch_s_order():
    rng = np.random.default_rng(0)
    gates = {"x": rng.normal(size=(1024, 7)), "b": rng.normal(size=1024), "h": rng.normal(size=(1024, 256)) / 16}
    cell = nn.LSTM(7, 256, batch_first=True).double()
    state = {"weight_ih_l0": "x", "bias_ih_l0": "b", "weight_hh_l0": "h"}
    state = {name: exchanged(torch.from_numpy(gates[key])) for name, key in state.items()}
    cell.load_state_dict(state | {"bias_hh_l0": torch.zeros(1024)})
    x = rng.normal(size=(6, 7))
    np.testing.assert_allclose(cell(torch.from_numpy(x)[None])[0][0].detach(), written_out(gates, x), rtol=1e-10)


def layers_of(network: nn.Module) -> dict[str, list[np.ndarray]]:
    """By Caffe's names: weight and bias of each layer."""
    found = {}
    for name, value in network.state_dict().items():
        layer = name.rpartition(".")[0].removeprefix("convolutions.")
        found.setdefault(layer, []).append(value.numpy())
    return found


def narrow(monkeypatch, module, dims: dict[int, int]) -> None:
    """Dense layers of few numbers, so that files are small."""
    linear = nn.Linear
    monkeypatch.setattr(module.nn, "Linear", lambda a, b: linear(dims.get(a, a), dims.get(b, b)))


def test_caffenet_s_file(tmp_path, monkeypatch):
    narrow(monkeypatch, caffenet, {4096: 8})
    network = CaffeNet(11)
    (tmp_path / "net.caffemodel").write_bytes(old_net(layers_of(network)))
    found = caffenet.load(tmp_path / "net.caffemodel")
    assert all(torch.equal(value, found.state_dict()[name]) for name, value in network.state_dict().items())
    (tmp_path / "other.caffemodel").write_bytes(old_net({"conv1": layers_of(network)["conv1"]}))
    with pytest.raises(BadWeights, match=r"is no CaffeNet: it has no fc8, only convolutions\.conv1"):
        caffenet.load(tmp_path / "other.caffemodel")


def test_lrcn_s_file(tmp_path, monkeypatch):
    recurrent = nn.LSTM
    narrow(monkeypatch, lrcn, {4096: 8})
    monkeypatch.setattr(lrcn.nn, "LSTM", lambda a, b, **options: recurrent(8, b, **options))
    network = LRCN(5)
    layers = layers_of(network)
    ih, hh, bias, zero = layers.pop("lstm1")
    assert not zero.any()
    back = lambda gates: exchanged(torch.from_numpy(gates)).numpy()  # noqa: E731  the exchange is its own inverse
    layers = {"fc8-final" if name == "fc8" else name: blobs for name, blobs in layers.items()}
    layers["lstm1"] = [back(ih), back(bias), back(hh)]
    (tmp_path / "net.caffemodel").write_bytes(new_net(layers))
    found = lrcn.load(tmp_path / "net.caffemodel")
    assert all(torch.equal(value, found.state_dict()[name]) for name, value in network.state_dict().items())
    (tmp_path / "frame.caffemodel").write_bytes(new_net({"fc8-final": layers["fc8-final"]}))
    with pytest.raises(BadWeights, match="is no LRCN: it lacks lstm1"):
        lrcn.load(tmp_path / "frame.caffemodel")


def test_ten_crops_of_a_video():
    video = torch.randint(256, (1, 3, 2, 240, 320), dtype=torch.uint8)
    crops = lrcn.prepare(video)
    assert crops.shape == (1, 10, 3, 2, 227, 227)
    whole = video[0].flip(0).float() - torch.tensor(lrcn.MEAN)[:, None, None, None]
    torch.testing.assert_close(crops[0, 3], whole[..., 13:, 93:])
    torch.testing.assert_close(crops[0, 4], whole[..., 6:233, 46:273])
    torch.testing.assert_close(crops[0, 9], crops[0, 4].flip(-1))
