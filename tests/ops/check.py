"""`check_op`: everything an op must satisfy, for one case and one implementation (house rule 2.9).

Each check raises AssertionError with the case, the implementation and the figure. test_harness.py proves each of them
on an op that is wrong on purpose.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from vgen_fast import ops

from .cases import Case, Tensors

Call = Callable[[Tensors, str | None], Tensor]


def check_op(case: Case, impl: str, call: Call | None = None, device: str = "cpu") -> None:
    """Every check below on one case; `call` replaces the op (to test the checks)."""
    call = call or case.call
    for dtype in (torch.float32, torch.float64, *((torch.bfloat16, torch.float16) if case.half else ())):
        check_value_and_gradient(case, impl, call, dtype, device)
    check_layouts(case, impl, call, device)
    check_buffers(case, impl, call, device)
    if device == "cpu" and impl != "triton":
        check_numerical_gradients(case, impl, call)
    check_second_order(case, impl, call, device)
    if case.critic:
        check_penalty(case, impl, call, device)


def leaves(tensors: Tensors) -> Tensors:
    return {name: tensor.detach().clone().requires_grad_() for name, tensor in tensors.items()}


def gradients(output: Tensor, tensors: Tensors, seed: int = 1, create_graph: bool = False) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    g = torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output)
    return list(torch.autograd.grad(output, list(tensors.values()), g, create_graph=create_graph))


def assert_close(
    got: Tensor, plain: Tensor, exact: Tensor, what: str, factor: float = 2.0, nudged: Tensor | None = None
) -> None:
    """The tolerance rule: at most `factor` times plain PyTorch's error in the same type, or what an ulp of the inputs
    changes (`nudged`), where plain PyTorch is luckier; plus ulps of the scale.
    """
    assert got.shape == exact.shape, f"{what}: shape {tuple(got.shape)}, expected {tuple(exact.shape)}"
    assert got.isfinite().all(), f"{what}: not finite"
    exact = exact.double()
    scale = exact.abs().max().item() if exact.numel() else 0.0
    apart = [plain] if nudged is None else [plain, nudged]
    allowed = factor * max((t.double() - exact).abs().max().item() for t in apart) if exact.numel() else 0.0
    # Nothing here is more exact than float64: there, ulps of numbers of size one that may have cancelled.
    ulps, floor = {torch.float64: (64, max(scale, 1.0)), torch.float32: (8, scale)}.get(got.dtype, (4, scale))
    allowed += ulps * torch.finfo(got.dtype).eps * floor
    error = (got.double() - exact).abs().max().item() if exact.numel() else 0.0
    assert error <= allowed, f"{what}: error {error:.3g}, allowed {allowed:.3g} at scale {scale:.3g}"


def check_value_and_gradient(case: Case, impl: str, call: Call, dtype: torch.dtype, device: str) -> None:
    start = case.tensors(dtype, device=device)
    mine, plain, exact = leaves(start), leaves(start), leaves({n: t.double() for n, t in start.items()})
    got, rough, true = call(mine, impl), case.plain(plain), case.plain(exact)
    assert got.dtype == dtype, f"{case} {impl}: {got.dtype} for {dtype} input"
    assert_close(got, rough, true, f"{case} {impl} {dtype}")
    for name, *three in zip(start, gradients(got, mine), gradients(rough, plain), gradients(true, exact), strict=True):
        assert_close(*three, f"{case} {impl} {dtype} gradient of {name}")
    for name, tensor in start.items():
        assert torch.equal(tensor, mine[name]), f"{case} {impl}: {name} was changed"


def layouts(x: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The same values with other strides."""
    if x.ndim >= 4:
        yield (
            "channels-last",
            x.contiguous(memory_format=torch.channels_last if x.ndim == 4 else torch.channels_last_3d),
        )
    wide = torch.full((*x.shape[:-1], 2 * x.shape[-1] + 1), torch.nan, dtype=x.dtype, device=x.device)
    wide[..., 1::2] = x
    yield "every other element, offset 1", wide[..., 1::2]
    yield "transposed", x.transpose(0, -1).contiguous().transpose(0, -1)


def check_layouts(case: Case, impl: str, call: Call, device: str) -> None:
    start = case.tensors(torch.float64, device=device)
    first = next(iter(start))
    base = leaves(start)
    expected = call(base, impl)
    expected_gradients = gradients(expected, base)
    for layout, x in layouts(start[first]):
        mine = {**leaves(start), first: x.detach().requires_grad_()}
        got = call(mine, impl)
        where = f"{case} {impl} with {first} {layout}"
        torch.testing.assert_close(got, expected, msg=lambda text, where=where: f"{where}: {text}")
        for a, b in zip(gradients(got, mine), expected_gradients, strict=True):
            torch.testing.assert_close(a, b, msg=lambda text, where=where: f"{where}, gradient: {text}")
        if impl != "reference" and layout == "channels-last" and got.ndim == x.ndim and min(got.shape[1:]) > 1:
            form = torch.channels_last if x.ndim == 4 else torch.channels_last_3d
            assert got.is_contiguous(memory_format=form), f"{where}: the output is not channels-last"
    g = torch.ones_like(expected).sum().expand(expected.shape)  # a gradient with all strides 0
    again = call(base, impl)
    plain = torch.autograd.grad(again, list(base.values()), g.contiguous(), retain_graph=True)
    for a, b in zip(torch.autograd.grad(again, list(base.values()), g), plain, strict=True):
        torch.testing.assert_close(a, b, msg=lambda text: f"{case} {impl}, expanded gradient: {text}")


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """Fresh tensors are full of NaN inside the block: an element nobody writes shows."""
    before = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.utils.deterministic.fill_uninitialized_memory = before[1]


def check_buffers(case: Case, impl: str, call: Call, device: str) -> None:
    """All of every output is written, and the same input gives the same bits."""
    runs = []
    for _ in range(2):
        tensors = leaves(case.tensors(torch.float32, device=device))
        with poisoned_memory():
            output = call(tensors, impl)
            runs.append([output, *gradients(output, tensors)])
    for a, b in zip(*runs, strict=True):
        assert a.isfinite().all(), f"{case} {impl}: part of an output was never written"
        assert torch.equal(a, b), f"{case} {impl}: two runs on the same input differ"


def check_numerical_gradients(case: Case, impl: str, call: Call) -> None:
    tensors = leaves(case.tensors(torch.float64, seed=3))
    large = sum(t.numel() for t in tensors.values()) > 400  # along random directions instead of every element
    names = list(tensors)

    def function(*values: Tensor) -> Tensor:
        return call(dict(zip(names, values, strict=True)), impl)

    # Steps of 1e-7 straddle a kink with a chance of about 1e-5 per element; the seed is one that does not.
    options = dict(atol=1e-5, rtol=1e-3, fast_mode=large) | (dict(eps=1e-7) if case.kinks else {})
    assert gradcheck(function, tuple(tensors.values()), **options), f"{case} {impl}: first numerical gradient"
    if case.order == 2:
        assert gradgradcheck(function, tuple(tensors.values()), **options), f"{case} {impl}: second numerical gradient"


def check_second_order(case: Case, impl: str, call: Call, device: str) -> None:
    """Gradient of a function of the gradient, against plain autograd, by every tensor and by the output's gradient."""
    if case.order < 2:
        return
    found = []
    for function in (lambda tensors: call(tensors, impl), case.plain):
        tensors = leaves(case.tensors(torch.float64, seed=5, device=device))
        output = function(tensors)
        generator = torch.Generator().manual_seed(2)
        g = torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output).requires_grad_()
        first = torch.autograd.grad(output, list(tensors.values()), g, create_graph=True)
        penalty = sum(t.square().sum() + t.sum() for t in first)
        wanted = [*tensors.values(), g]
        found.append(torch.autograd.grad(penalty, wanted, allow_unused=True, materialize_grads=True))
    for name, a, b in zip([*case.shapes, "output gradient"], *found, strict=True):
        torch.testing.assert_close(
            a, b, rtol=1e-6, atol=1e-8, msg=lambda text, name=name: f"{case} {impl}, second gradient of {name}: {text}"
        )


def check_penalty(case: Case, impl: str, call: Call, device: str) -> None:
    """The weight gradients of a WGAN-GP penalty, op last and op inside, by backward() and by autograd.grad."""
    first = next(iter(case.shapes))
    for inside in (False, True):
        for by_backward in (False, True):
            found = []
            for function in (lambda tensors: call(tensors, impl), case.plain):
                tensors = leaves(case.tensors(torch.float64, seed=7, device=device))
                mix = torch.linspace(0.5, 1.5, tensors[first].shape[1], dtype=torch.float64, device=device)
                mix.requires_grad_()
                shape = [1, -1] + [1] * (tensors[first].ndim - 2)

                def critic(x, tensors=tensors, mix=mix, shape=shape, function=function, inside=inside) -> Tensor:
                    y = function({**tensors, first: torch.tanh(x * mix.reshape(shape))})
                    y = y.reshape(len(y), -1)
                    y = (y.tanh() * y + x.flatten(1).sum(1, keepdim=True).square()) if inside else y
                    return y.sum(1)

                with ops.no_weight_gradients():
                    (gx,) = torch.autograd.grad(critic(tensors[first]).sum(), tensors[first], create_graph=True)
                penalty = (gx.flatten(1).norm(dim=1) - 1).square().sum()
                wanted = [*tensors.values(), mix]
                if by_backward:
                    penalty.backward()
                    found.append([torch.zeros_like(t) if t.grad is None else t.grad for t in wanted])
                else:
                    found.append(torch.autograd.grad(penalty, wanted, allow_unused=True, materialize_grads=True))
            for name, a, b in zip([*case.shapes, "mix"], *found, strict=True):
                where = f"{case} {impl}, penalty gradient of {name}, inside={inside}, by_backward={by_backward}"
                torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8, msg=lambda text, where=where: f"{where}: {text}")
