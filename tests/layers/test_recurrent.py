"""Recurrent cells: parameter counts of spec/conditional.md B3, steps worked by plain PyTorch, and identities."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vgen_fast.layers.recurrent import (
    CELLS,
    TSRU,
    Conventions,
    ConvGRU,
    ConvLSTM,
    Joint,
    Rollout,
    TrajGRU,
    Warp,
    check,
    filtered,
    flowed,
    made,
)
from vgen_fast.layers.segment import recomputing

COUNTS = {
    "convrnn": 1_179_904,
    "convgru": 3_539_712,
    "convlstm": 4_719_616,
    "trajgru": 3_171_722,
    "ktrajgru": 2_567_945,
    "tsru_c": 2_960_137,
    "tsru_p": 2_960_137,
    "tsru_s": 2_960_137,
}
every_cell = pytest.mark.parametrize("name", list(CELLS))


@every_cell
def test_parameters_at_256_channels_are_those_of_the_table(name):
    with torch.device("meta"):
        cell = CELLS[name](256, 256)
    assert sum(p.numel() for p in cell.parameters()) == COUNTS[name]


def test_conventions_are_those_of_the_cell_that_is_made():
    with torch.device("meta"):
        of_tsru = dict(separable=True, warp="flow", mix="raw")
        chosen = Conventions(candidate="relu", peepholes=True, flows=2, act="lrelu", **of_tsru)
        cells = {name: made(name, 3, 4, chosen) for name in CELLS}
    assert cells["convgru"].candidate == "relu"
    assert cells["convlstm"].peepholes is not None
    assert cells["trajgru"].flows.out_channels == 4
    assert cells["ktrajgru"].warp.last.out_channels == 6
    assert all(cells[name].act(torch.tensor(-1.0)) == torch.tensor(-0.2) for name in ("trajgru", "ktrajgru"))
    tsrus = [cell for name, cell in cells.items() if name.startswith("tsru")]
    assert {(cell.form, cell.mix, cell.warp.kind) for cell in tsrus} == {(form, "raw", "flow") for form in "cps"}
    check("tsru_c", None, Conventions(warp="flow"))
    with pytest.raises(ValueError, match=r"conventions\.flows is of trajgru, not of convgru"):
        check("convgru", None, Conventions(flows=2))


def test_a_gru_of_128_channels_has_the_count_of_the_table():
    with torch.device("meta"):
        assert sum(p.numel() for p in ConvGRU(128, 128).parameters()) == 885_120


def seen(cell, x, h):
    """One step of a cell."""
    return cell.step(h, *cell.given(x))


def together(joint: Joint, x, h):
    """W [x; h] + b as one convolution."""
    weight = torch.cat([joint.of_input.weight, joint.of_state.weight], dim=1)
    return F.conv2d(torch.cat([x, h], dim=1), weight, joint.of_input.bias, padding="same")


@pytest.fixture
def x_h():
    torch.manual_seed(0)
    return torch.randn(2, 3, 6, 5).double(), torch.randn(2, 4, 6, 5).double()


def shaken(cell: nn.Module) -> nn.Module:
    """Biases too."""
    cell.double()
    with torch.no_grad():
        for p in cell.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return cell


def test_rnn_is_its_equation(x_h):
    cell = shaken(CELLS["convrnn"](3, 4))
    torch.testing.assert_close(seen(cell, *x_h), together(cell.joint, *x_h).tanh())


@pytest.mark.parametrize("candidate", ["tanh", "relu"])
def test_gru_is_its_equation(candidate, x_h):
    x, h = x_h
    cell = shaken(ConvGRU(3, 4, candidate=candidate))
    u, r = together(cell.gates, x, h).sigmoid().chunk(2, dim=1)
    c = together(cell.new, x, r * h)
    wanted = (1 - u) * h + u * c.tanh() if candidate == "tanh" else u * h + (1 - u) * c.relu()
    torch.testing.assert_close(seen(cell, x, h), wanted)


@pytest.mark.parametrize("name", [name for name in CELLS if name != "convrnn"])
@pytest.mark.parametrize("b", [4.0, -4.0])
def test_a_state_is_kept_as_long_as_it_is_told(name, b):
    """Of cells whose weights are 0, so that gates are their biases, the candidate is 0 and a warp a mean or nothing."""
    cell = CELLS[name](3, 4).double()
    for p in cell.parameters():
        nn.init.zeros_(p)
    state = torch.ones(1, 4 * cell.parts, 6, 6).double()
    _, last = Rollout(cell, remembers=b)(torch.zeros(1, 3, 1, 6, 6).double(), state, 2)
    kept = torch.tensor(b).double().sigmoid() ** 2
    torch.testing.assert_close(last[0, -1, 2:4, 2:4], kept.expand(2, 2))


@pytest.mark.parametrize("peepholes", [False, True])
def test_lstm_is_its_equation_and_remembers_to_begin_with(peepholes, x_h):
    x, h = x_h
    assert (ConvLSTM(3, 4).joint.of_input.bias.chunk(4)[1] == 1).all()
    cell, c = shaken(ConvLSTM(3, 4, peepholes=peepholes)), torch.randn_like(h)
    i, f, o, g = together(cell.joint, x, h).chunk(4, dim=1)
    p_i, p_f, p_o = cell.peepholes if peepholes else torch.zeros(3, 4, 1, 1).double()
    new = (f + p_f * c).sigmoid() * c + (i + p_i * c).sigmoid() * g.tanh()
    wanted = torch.cat([(o + p_o * new).sigmoid() * new.tanh(), new], dim=1)
    torch.testing.assert_close(seen(cell, x, torch.cat([h, c], dim=1)), wanted)


@pytest.mark.parametrize(("form", "mix"), [("c", "warped"), ("p", "warped"), ("s", "warped"), ("c", "raw")])
def test_tsru_is_its_equations(form, mix, x_h):
    x, h = x_h
    cell = shaken(TSRU(3, 4, form=form, mix=mix))
    theta = cell.warp.last(together(cell.warp.hidden, x, h).relu())
    warped = sum(
        theta.softmax(dim=1)[:, tap, None] * torch.roll(F.pad(h, [1] * 4), (1 - tap // 3, 1 - tap % 3), (2, 3))
        [:, :, 1:-1, 1:-1] for tap in range(9)
    )  # fmt: skip
    c = together(cell.new, x, h if form == "p" else warped).relu()
    u = (together(cell.update, c, warped) if form == "s" else together(cell.update, x, h)).sigmoid()
    torch.testing.assert_close(seen(cell, x, h), u * (warped if mix == "warped" else h) + (1 - u) * c)


@pytest.mark.parametrize("name", ["trajgru", "ktrajgru"])
@pytest.mark.parametrize("act", ["tanh", "lrelu"])
def test_traj_gru_is_its_equations(name, act, x_h):
    x, h = x_h
    cell = shaken(CELLS[name](3, 4, act=act))
    f = torch.tanh if act == "tanh" else (lambda v: F.leaky_relu(v, 0.2))
    _, warp = cell.given(x)
    r, z, n = F.conv2d(x, cell.of_input.weight, cell.of_input.bias, padding=1).chunk(3, dim=1)
    r_h, z_h, n_h = cell.of_state(cell.warped(warp, h)).chunk(3, dim=1)
    z = (z + z_h).sigmoid()
    torch.testing.assert_close(seen(cell, x, h), z * h + (1 - z) * f(n + (r + r_h).sigmoid() * n_h))


def test_a_flow_of_nothing_changes_nothing_and_one_of_a_pixel_moves_by_it(x_h):
    _, h = x_h
    still = torch.zeros(2, 2, 6, 5).double()
    torch.testing.assert_close(flowed(h, still), h)
    right = still.clone()
    right[:, 0] = 1
    torch.testing.assert_close(flowed(h, right), F.pad(h, (1, 0))[..., :-1])
    down = still.clone()
    down[:, 1] = 2
    torch.testing.assert_close(flowed(h, down), F.pad(h, (0, 0, 2, 0))[..., :-2, :])


def test_traj_gru_reads_each_flow(x_h):
    x, h = x_h
    cell = shaken(TrajGRU(3, 4, flows=2))
    with torch.no_grad():
        cell.flows.weight.zero_()
        cell.flows.bias.copy_(torch.tensor([0.0, 0, 1, 0]))
    warped = cell.warped(cell.given(x)[1], h)
    torch.testing.assert_close(warped[:, :4], h)
    torch.testing.assert_close(warped[:, 4:], F.pad(h, (1, 0))[..., :-1])


@pytest.mark.parametrize("taps", [3, 5])
def test_a_kernel_of_its_centre_changes_nothing(taps, x_h):
    _, h = x_h
    centre = torch.zeros(2, taps * taps, 6, 5).double()
    centre[:, taps * taps // 2] = 1
    torch.testing.assert_close(filtered(h, centre), h)


def test_a_kernel_of_two_factors_is_their_product(x_h):
    x, h = x_h
    warp = Warp(3, 4, separable=True).double()
    found = warp(warp.hidden.given(x), h)
    rows, columns = warp.last(together(warp.hidden, x, h).relu()).chunk(2, dim=1)
    product = torch.einsum("byhw,bxhw->byxhw", rows.softmax(1), columns.softmax(1)).flatten(1, 2)
    torch.testing.assert_close(found, filtered(h, product))


@pytest.mark.parametrize("form", ["c", "p", "s"])
@pytest.mark.parametrize("warp", ["kernel", "flow"])
def test_a_tsru_that_updates_nothing_with_a_warp_of_nothing_keeps_its_state(form, warp, x_h):
    x, h = x_h
    cell = TSRU(3, 4, form=form, warp=warp).double()
    with torch.no_grad():
        cell.update.of_input.weight.zero_()
        cell.update.of_state.weight.zero_()
        cell.update.of_input.bias.fill_(50)  # u = 1
        cell.warp.last.weight.zero_()
        cell.warp.last.bias.zero_()
        if warp == "kernel":
            cell.warp.last.bias[4] = 50
    torch.testing.assert_close(seen(cell, x, h), h)


@pytest.mark.parametrize(("mix", "moves"), [("raw", False), ("warped", True)])
def test_tsru_p_as_printed_has_a_warp_without_effect(mix, moves, x_h):
    cell = TSRU(3, 4, form="p", mix=mix).double()
    seen(cell, *x_h).sum().backward()
    gradient = cell.warp.last.weight.grad
    assert (gradient is not None and bool(gradient.any())) == moves


@every_cell
def test_a_rollout_is_its_steps_and_recomputing_changes_no_gradient(name):
    torch.manual_seed(1)
    cell = shaken(CELLS[name](3, 4))
    rollout = Rollout(cell)
    x, h = torch.randn(2, 3, 5, 6, 6).double(), torch.randn(2, 4, 6, 6).double().requires_grad_()
    states, state = [], torch.cat([h, torch.zeros_like(h)], dim=1) if name == "convlstm" else h
    for t in range(5):
        state = cell.step(state, *cell.given(x[:, :, t]))
        states.append(state[:, :4])
    wanted = torch.stack(states, dim=2)
    inputs = [h, *cell.parameters()]
    plain = torch.autograd.grad(wanted.sin().sum(), inputs, allow_unused=True)
    shown, last = rollout(x, rollout.first(h), 5)
    torch.testing.assert_close(shown, wanted)
    torch.testing.assert_close(last, state)
    before, middle = rollout(x[:, :, :2], rollout.first(h), 2)
    after, _ = rollout(x[:, :, 2:], middle, 3)
    torch.testing.assert_close(torch.cat([before, after], dim=2), wanted)
    with recomputing(rollout):
        found = torch.autograd.grad(rollout(x, rollout.first(h), 5)[0].sin().sum(), inputs, allow_unused=True)
    torch.testing.assert_close(found, plain)


def test_steps_that_are_given_the_same_share_what_is_made_of_it():
    rollout = Rollout(ConvGRU(3, 4).double())
    x, h = torch.randn(1, 3, 1, 6, 6).double(), torch.randn(2, 4, 6, 6).double()
    torch.testing.assert_close(rollout(x, h, 4)[0], rollout(x.expand(2, -1, 4, -1, -1), h, 4)[0])
