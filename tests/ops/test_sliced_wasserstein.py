"""The sliced Wasserstein distance against POT, closed forms and tables; every implementation against the reference."""

import math

import ot
import pytest
import torch

from vgen_fast import _C
from vgen_fast.ops.reference import sliced_wasserstein as reference
from vgen_fast.ops.sliced_wasserstein import sliced_wasserstein

IMPLEMENTATIONS = ["reference", "cpp"]
ISAS = ["avx2", "avx512"]
FALSE_ALARM = 4.42  # standard deviations: two-sided probability 1e-5


def samples(n, m, d, num_projections, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)  # noqa: E731
    projections = draw(d, num_projections).float()
    return draw(n, d), draw(m, d) + 0.3, (projections / projections.norm(dim=0)).to(dtype)


def test_reference_gives_the_values_worked_by_hand():
    # Columns of x sorted: (0, 2, 5), (1, 3, 4); of y: (1, 1, 6), (0, 0, 1). Differences 1 1 1 and 1 3 3.
    x = torch.tensor([[5.0, 1.0], [0.0, 4.0], [2.0, 3.0]])
    y = torch.tensor([[1.0, 0.0], [6.0, 1.0], [1.0, 0.0]])
    squares = reference.sliced_wasserstein(x, y, torch.eye(2), p=2)
    assert squares.item() == pytest.approx(math.sqrt((3 / 3 + 19 / 3) / 2))
    assert reference.sliced_wasserstein(x, y, torch.eye(2), p=1).item() == pytest.approx((1 + 7 / 3) / 2)


def test_reference_pieces_of_two_and_three_samples_are_the_hand_worked_ones():
    rank_x, rank_y, length = reference.quantile_pieces(2, 3)
    assert rank_x.tolist() == [0, 0, 1, 1]
    assert rank_y.tolist() == [0, 1, 1, 2]
    torch.testing.assert_close(length, torch.tensor([2, 1, 1, 2]).double() / 6)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("p", [1, 2, 3, 1.5])
@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 5), (7, 7), (13, 13), (64, 64), (10, 15), (37, 100), (300, 257)])
def test_value_equals_pot(impl, p, n, m):
    x, y, projections = samples(n, m, 5, 19)
    wanted = ot.sliced_wasserstein_distance(x.numpy(), y.numpy(), projections=projections.numpy(), p=p)
    got = sliced_wasserstein(x, y, projections=projections, p=p, impl=impl)
    assert got.item() == pytest.approx(wanted, rel=1e-10)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("p", [1, 2, 4])
def test_shifted_points_are_as_far_as_the_projected_shift(impl, p):
    x, _, projections = samples(33, 33, 4, 16)
    shift = torch.tensor([0.5, -2.0, 1.0, 0.25], dtype=torch.float64)
    wanted = (shift @ projections).abs().pow(p).mean().pow(1 / p)
    got = sliced_wasserstein(x, x[torch.randperm(33)] + shift, projections=projections, p=p, impl=impl)
    torch.testing.assert_close(got, wanted)


def test_distance_of_gaussian_quantiles_equals_the_closed_form():
    # W_2 between N(0, 1) and N(1, 2^2) is sqrt(1 + 1); sampled at the midpoints of 20000 equal quantiles.
    levels = (torch.arange(20000, dtype=torch.float64) + 0.5) / 20000
    x = (math.sqrt(2) * torch.erfinv(2 * levels - 1))[:, None]
    got = sliced_wasserstein(x, 1 + 2 * x, projections=torch.ones(1, 1, dtype=torch.float64))
    assert got.item() == pytest.approx(math.sqrt(2), rel=1e-3)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [1, 2, 3, 8, 15, 16, 17, 31, 32, 33, 63, 65, 127, 129, 255, 257, 511, 1031, 2050])
def test_sorts_every_length_on_every_instruction_set(isa, dtype, n):
    before = _C.isa()
    try:
        try:
            _C.set_isa(isa)
        except ValueError:
            pytest.skip(f"this processor has no {isa}")
        x, y, projections = samples(n, n + n % 3, 3, 17, dtype)
        x.requires_grad_(True)
        y.requires_grad_(True)
        got = sliced_wasserstein(x, y, projections=projections, impl="cpp")
        wanted = sliced_wasserstein(x, y, projections=projections, impl="reference")
        tolerance = {"rtol": 1e-5, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 1e-12, "atol": 1e-13}
        torch.testing.assert_close(got, wanted, **tolerance)
        with torch.no_grad():
            torch.testing.assert_close(sliced_wasserstein(x, y, projections=projections, impl="cpp"), got)
        for a, b in zip(torch.autograd.grad(got, (x, y)), torch.autograd.grad(wanted, (x, y)), strict=True):
            torch.testing.assert_close(a, b, **tolerance)
    finally:
        _C.set_isa(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("n", "m", "d", "num_projections"), [(1, 1, 1, 1), (9, 15, 2047, 16), (16, 7, 4099, 33)])
def test_projections_made_inside_equal_those_made_outside(dtype, n, m, d, num_projections):
    x, y, projections = samples(n, m, d, num_projections, dtype)
    x, y, projections = x.t().contiguous().t(), y[:, : d // 2 + 1], projections.t().contiguous().t()  # any strides
    x, projections = x[:, : d // 2 + 1], projections[: d // 2 + 1]
    inside = sliced_wasserstein(x, y, projections=projections, impl="cpp")
    outside = sliced_wasserstein(x.clone().requires_grad_(), y, projections=projections, impl="cpp")
    wanted = sliced_wasserstein(x.double(), y.double(), projections=projections.double(), impl="reference")
    tolerance = {"rtol": 1e-5, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 1e-12, "atol": 1e-13}
    torch.testing.assert_close(inside.double(), wanted, **tolerance)
    torch.testing.assert_close(outside.detach().double(), wanted, **tolerance)


@pytest.mark.parametrize("p", [1, 2, 2.5])
@pytest.mark.parametrize(("n", "m", "num_projections"), [(9, 9, 5), (6, 11, 16), (40, 40, 33)])
def test_first_gradients_equal_those_of_the_reference(p, n, m, num_projections):
    x, y, projections = (t.requires_grad_(True) for t in samples(n, m, 7, num_projections))
    grads = [
        torch.autograd.grad(sliced_wasserstein(x, y, projections=projections, p=p, impl=impl), (x, y, projections))
        for impl in IMPLEMENTATIONS
    ]
    for got, wanted in zip(*grads, strict=True):
        torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize(("n", "m", "p"), [(5, 5, 2), (4, 6, 2), (5, 5, 3), (3, 5, 1)])
def test_numerical_first_and_second_gradients(impl, n, m, p):
    inputs = tuple(t.requires_grad_(True) for t in samples(n, m, 3, 4))

    def distance(x, y, projections):
        return sliced_wasserstein(x, y, projections=projections, p=p, impl=impl)

    assert torch.autograd.gradcheck(distance, inputs)
    assert torch.autograd.gradgradcheck(distance, inputs)


def test_gradient_penalty_reaches_weights_before_the_op():
    x, y, projections = samples(12, 12, 3, 8)
    weights = []
    for impl in IMPLEMENTATIONS:
        w = torch.eye(3, dtype=torch.float64).mul_(1.3).requires_grad_(True)
        point = x.clone().requires_grad_(True)
        distance = sliced_wasserstein(torch.tanh(point @ w), y, projections=projections, impl=impl)
        (slope,) = torch.autograd.grad(distance, point, create_graph=True)
        weights.append(torch.autograd.grad((slope.norm() - 1).square(), w)[0])
    torch.testing.assert_close(weights[1], weights[0])


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("p", [1, 2, 3])
def test_gradient_at_distance_zero_is_zero(impl, p):
    x, _, projections = samples(10, 10, 3, 8)
    y = x.clone().requires_grad_(True)
    distance = sliced_wasserstein(x, y, projections=projections, p=p, impl=impl)
    assert distance.item() == 0
    (gradient,) = torch.autograd.grad(distance, y)
    assert gradient.abs().max().item() == 0


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("row", [0, 19, 20])
def test_nan_in_one_sample_is_nan_in_the_distance(impl, gradient, row):
    x, y, projections = samples(21, 30, 3, 40)
    x[row, 1] = math.nan
    x.requires_grad_(gradient)
    distance = sliced_wasserstein(x, y, projections=projections, impl=impl)
    assert distance.isnan()
    if gradient:
        assert torch.autograd.grad(distance, x)[0].isnan().any()


def test_infinite_samples_do_not_write_outside_and_give_infinity_or_nan():
    x, y, _ = samples(21, 21, 3, 3)
    x[3] = math.inf
    x[20] = -math.inf
    distance = sliced_wasserstein(
        x.requires_grad_(True), y, projections=torch.eye(3, dtype=torch.float64).abs(), impl="cpp"
    )
    distance.backward()
    assert not distance.isfinite()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_error_is_that_of_the_type_at_most(dtype):
    exact = samples(50, 70, 20, 24)
    x, y, projections = (t.to(dtype) for t in exact)
    wanted = sliced_wasserstein(x.double(), y.double(), projections=projections.double(), impl="reference")
    plain = sliced_wasserstein(x, y, projections=projections, impl="reference")
    got = sliced_wasserstein(x, y, projections=projections, impl="cpp")
    assert got.dtype == dtype
    ulps = 4 * torch.finfo(dtype).eps * wanted.item()
    assert abs(got.item() - wanted.item()) <= 2 * abs(plain.item() - wanted.item()) + ulps


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_get_gradients_in_their_type(dtype):
    x, y, projections = (t.requires_grad_(True) for t in samples(16, 12, 6, 8, dtype))
    gradients = torch.autograd.grad(sliced_wasserstein(x, y, projections=projections, impl="cpp"), (x, y, projections))
    assert [g.dtype for g in gradients] == [dtype] * 3
    exact = [t.detach().double().requires_grad_(True) for t in (x, y, projections)]
    wanted = torch.autograd.grad(sliced_wasserstein(*exact[:2], projections=exact[2], impl="reference"), exact)
    for got, want in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(got.double(), want, rtol=0.02, atol=0.02 * want.abs().max().item())


def test_non_contiguous_inputs_are_read_right_and_left_alone():
    x, y, projections = samples(40, 60, 8, 34)
    a, b, c = x[::2, ::2], y.T.contiguous().T[::3, ::2], projections[::2, 1::2]
    kept = [t.clone() for t in (a, b, c)]
    got = sliced_wasserstein(a, b, projections=c, impl="cpp")
    torch.testing.assert_close(got, sliced_wasserstein(*kept[:2], projections=kept[2], impl="reference"))
    assert all(torch.equal(t, k) for t, k in zip((a, b, c), kept, strict=True))


def test_same_input_gives_the_same_bits_with_any_number_of_threads():
    x, y, projections = samples(500, 300, 8, 100, torch.float32)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            q, r = torch.zeros(500, 100), torch.zeros(300, 100)
            q.copy_((x.double() @ projections.double()).float())
            r.copy_((y.double() @ projections.double()).float())
            whole = torch.ops.vgen_fast.distance_along(x, y, projections, 2.0)
            results.append((whole, *torch.ops.vgen_fast.projected_wasserstein(q, r, 2.0, True, "cpp")))
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


def test_seed_decides_the_directions():
    x, y, _ = samples(20, 20, 6, 1)
    first, again, other = (sliced_wasserstein(x, y, num_projections=16, seed=s) for s in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    torch.manual_seed(5)
    drawn = sliced_wasserstein(x, y, num_projections=16)
    torch.manual_seed(5)
    assert torch.equal(drawn, sliced_wasserstein(x, y, num_projections=16))


def test_random_directions_are_uniform_on_the_sphere():
    # Between a point set and itself shifted by s, the squared distance is the mean of <s, theta>^2 over directions:
    # mean |s|^2 / d and variance 2 (d - 1) / (d^2 (d + 2)) |s|^4 for uniform theta. False alarms: 1e-5 per shift.
    d, count = 5, 20000
    x = torch.zeros(1, d, dtype=torch.float64)
    deviation = math.sqrt(2 * (d - 1) / (d * d * (d + 2)) / count)
    for axis in range(d):
        y = x.clone()
        y[0, axis] = 1
        square = sliced_wasserstein(x, y, num_projections=count, seed=11).square().item()
        assert abs(square - 1 / d) < FALSE_ALARM * deviation
    lengths = sliced_wasserstein(x[:, :1], x[:, :1] + 2, num_projections=100, seed=1)
    assert lengths.item() == pytest.approx(2)


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize(("n", "m"), [(6, 6), (4, 7)])
def test_opcheck(gradient, n, m):
    x, y, _ = samples(n, m, 5, 1)
    inputs = (x.requires_grad_(gradient), y.requires_grad_(gradient), 2.0, gradient, "cpp")
    torch.library.opcheck(torch.ops.vgen_fast.projected_wasserstein.default, inputs)
    if not gradient:
        torch.library.opcheck(torch.ops.vgen_fast.distance_along.default, (x, y, torch.randn(5, 3).double(), 2.0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(0, 3)}, r"x must be \[N, D\] with at least one sample.*undefined.*got shape \(0, 3\)"),
        ({"y": torch.zeros(0, 3)}, r"y must be \[M, D\] with at least one sample"),
        ({"x": torch.zeros(3)}, r"x must be \[N, D\]"),
        ({"y": torch.zeros(4, 2)}, r"y must be \[M, 3\] like x, got shape \(4, 2\)"),
        ({"y": torch.zeros(4, 3).double()}, "y must be torch.float32 like x"),
        ({"x": torch.zeros(4, 3).int()}, "x must be float32, float64, bfloat16 or float16"),
        ({"x": [1.0]}, "x must be a tensor"),
        ({"projections": torch.zeros(2, 5)}, r"projections must be \[3, L\], L > 0, got shape \(2, 5\)"),
        ({"projections": torch.zeros(3, 0)}, r"projections must be \[3, L\]"),
        ({"num_projections": 0}, "num_projections must be a positive integer, got 0"),
        ({"p": 0.5}, "p must be a finite number of at least 1, got 0.5"),
        ({"seed": 1.5}, "seed must be an integer or None, got 1.5"),
        ({"impl": "numpy"}, "impl must be one of"),
    ],
)
def test_refused_arguments_are_named(change, message):
    arguments = {"x": torch.zeros(4, 3), "y": torch.zeros(5, 3), **change}
    with pytest.raises(ValueError, match=message):
        sliced_wasserstein(arguments.pop("x"), arguments.pop("y"), **arguments)
