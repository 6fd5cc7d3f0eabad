"""The sliced head: hand-worked values, every implementation against the reference, to the third derivative."""

import pytest
import torch

from vgen_fast.ops.reference import sliced_wasserstein as reference
from vgen_fast.ops.sliced_wasserstein import sliced_head

IMPLEMENTATIONS = ["reference", "cpp"]


def arguments(batch, directions, features=None, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = (batch, features or directions), (directions, features or directions), (directions,), (directions,)
    return [torch.randn(*s, generator=generator, dtype=torch.float64).to(dtype).requires_grad_(True) for s in shapes]


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_value_equals_the_table_worked_by_hand(impl):
    # theta rows (1, 0), (1, -1); scale (2, -1); offset (1, 0); slope 0.5. Rows of z: (3, 1), (-3, 2), (1, 3).
    y = torch.tensor([[1.0, 2.0], [-2.0, 0.0], [0.0, 3.0]])
    theta = torch.tensor([[1.0, 0.0], [1.0, -1.0]])
    got = sliced_head(y, theta, torch.tensor([2.0, -1.0]), torch.tensor([1.0, 0.0]), slope=0.5, impl=impl)
    assert got.tolist() == [2.0, 0.25, 2.0]


@pytest.mark.parametrize(("batch", "directions", "features"), [(1, 1, 1), (5, 3, 7), (64, 128, 128), (13, 1031, 17)])
@pytest.mark.parametrize("slope", [0.2, 0.0, 1.0, -0.5])
def test_value_and_gradients_equal_the_reference(batch, directions, features, slope):
    inputs = arguments(batch, directions, features)
    weight = torch.linspace(-1, 2, batch, dtype=torch.float64)
    results = []
    for impl in IMPLEMENTATIONS:
        out = sliced_head(*inputs, slope=slope, impl=impl)
        results.append([out, *torch.autograd.grad((out * weight).sum(), inputs)])
    for got, wanted in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_numerical_first_and_second_gradients(impl):
    inputs = arguments(3, 5, 4)
    head = lambda *tensors: sliced_head(*tensors, slope=0.3, impl=impl)  # noqa: E731
    assert torch.autograd.gradcheck(head, inputs)
    assert torch.autograd.gradgradcheck(head, inputs)


def test_third_derivative_equals_the_reference():
    results = []
    for impl in IMPLEMENTATIONS:
        y, theta, scale, offset = arguments(4, 6)
        out = sliced_head(y, theta, scale, offset, impl=impl)
        (first,) = torch.autograd.grad(out.square().sum(), y, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), scale, create_graph=True)
        results.append(torch.autograd.grad(second.square().sum(), (y, theta, scale, offset)))
    for got, wanted in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("ask", ["backward", "grad"])
def test_penalty_weight_gradient_equals_plain_autograd(last, ask):
    found = []
    for impl in IMPLEMENTATIONS:
        x = torch.randn(6, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64).requires_grad_(True)
        torch.manual_seed(1)
        layer = torch.nn.Linear(5, 8, dtype=torch.float64)
        _, theta, scale, offset = arguments(1, 8)
        score = sliced_head(torch.tanh(layer(x)), theta, scale, offset, impl=impl)
        score = score if last else torch.nn.functional.softplus(score)
        (slope,) = torch.autograd.grad(score.sum(), x, create_graph=True)
        penalty = (slope.norm(dim=1) - 1).square().mean()
        weights = [*layer.parameters(), theta, scale, offset]
        if ask == "backward":
            penalty.backward()
            found.append([torch.zeros_like(w) if w.grad is None else w.grad for w in weights])
        else:
            found.append(torch.autograd.grad(penalty, weights, allow_unused=True, materialize_grads=True))
    for got, wanted in zip(*found, strict=True):
        torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_error_is_that_of_the_type_at_most(dtype):
    inputs = arguments(33, 65, dtype=dtype)
    exact = [t.detach().double().requires_grad_(True) for t in inputs]
    outputs = {}
    for name, tensors, impl in (("exact", exact, "reference"), ("plain", inputs, "reference"), ("cpp", inputs, "cpp")):
        out = sliced_head(*tensors, impl=impl)
        outputs[name] = [out, *torch.autograd.grad(out.sum(), tensors)]
    assert all(t.dtype == dtype for t in outputs["cpp"])
    for wanted, plain, got in zip(outputs["exact"], outputs["plain"], outputs["cpp"], strict=True):
        allowed = 2 * (plain - wanted).norm() + 4 * torch.finfo(dtype).eps * wanted.norm()
        assert (got - wanted).norm() <= allowed


@pytest.mark.parametrize("impl", [None, *IMPLEMENTATIONS])
def test_empty_batch_gives_an_empty_score_and_zero_gradients(impl):
    inputs = arguments(0, 4)
    out = sliced_head(*inputs, impl=impl)
    assert out.shape == (0,)
    gradients = torch.autograd.grad(out.sum(), inputs)
    assert all(g.abs().sum() == 0 for g in gradients)


def test_non_contiguous_inputs_are_read_right():
    y, theta, scale, offset = (t.detach() for t in arguments(8, 12))
    strided = y[::2, ::2], theta.T[::3, ::2], scale[::3], offset.repeat(2).view(2, 12).T[::3, 0]
    torch.testing.assert_close(sliced_head(*strided, impl="cpp"), reference.sliced_head(*strided))


def test_nan_reaches_the_score_of_its_own_sample_alone():
    y, theta, scale, offset = (t.detach() for t in arguments(3, 20))
    y[1, 2] = float("nan")
    assert sliced_head(y, theta, scale, offset, impl="cpp").isnan().tolist() == [False, True, False]


def test_same_bits_with_any_number_of_threads():
    inputs = arguments(128, 1031, 8, torch.float32)
    q, scale, offset = (inputs[0] @ inputs[1].T).detach(), *(t.detach() for t in inputs[2:])
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            out = torch.ops.vgen_fast.sliced_head(q, scale, offset, 0.2, "cpp")
            first = torch.ops.vgen_fast.sliced_head_backward(out, q, scale, offset, 0.2, "cpp")
            second = torch.ops.vgen_fast.sliced_head_double_backward(*first, out, q, scale, offset, 0.2, "cpp")
            results.append([out, *first, *second])
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


def test_opcheck():
    y, theta, scale, offset = arguments(3, 5)
    q = (y @ theta.T).detach().requires_grad_(True)
    g = torch.randn(3, dtype=torch.float64, requires_grad=True)
    v, vs, vo = (torch.randn(s, dtype=torch.float64, requires_grad=True) for s in ((3, 5), (5,), (5,)))
    ops = torch.ops.vgen_fast
    torch.library.opcheck(ops.sliced_head.default, (q, scale, offset, 0.2, "cpp"))
    torch.library.opcheck(ops.sliced_head_backward.default, (g, q, scale, offset, 0.2, "cpp"))
    torch.library.opcheck(ops.sliced_head_double_backward.default, (v, vs, vo, g, q, scale, offset, 0.2, "cpp"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": torch.zeros(3)}, r"sliced_head: y must be \[B, D\], got shape \(3,\)"),
        ({"theta": torch.zeros(4, 2)}, r"theta must be \[K, 3\], K > 0, got shape \(4, 2\)"),
        ({"theta": torch.zeros(0, 3)}, r"theta must be \[K, 3\], K > 0"),
        ({"scale": torch.zeros(3)}, r"scale must be \[K\] = \(4,\), got shape \(3,\)"),
        ({"offset": torch.zeros(4, 1)}, r"offset must be \[K\] = \(4,\)"),
        ({"offset": torch.zeros(4).double()}, "offset must be torch.float32 like y, got torch.float64"),
        ({"slope": "0.2"}, "slope must be a finite number, got '0.2'"),
        ({"y": None}, "y must be a tensor, got NoneType"),
    ],
)
def test_refused_arguments_are_named(change, message):
    call = {"y": torch.zeros(2, 3), "theta": torch.zeros(4, 3), "scale": torch.zeros(4), "offset": torch.zeros(4)}
    with pytest.raises(ValueError, match=message):
        sliced_head(**{**call, **change})
