"""Refused arguments: one sentence naming the op, the tensor, what was wanted and what came."""

# ruff: noqa: E501 (one row per refused call)

import random
import re

import numpy as np
import pytest
import torch

from vgen_fast import ops
from vgen_fast.ops import choose
from vgen_fast.ops.reference import pixel_norm as pixel_norm_reference

X, W = torch.zeros(2, 3, 4, 5, 6), torch.zeros(4, 3, 3, 3, 3)
IMAGE, W2 = torch.zeros(2, 3, 5, 6), torch.zeros(4, 3, 3, 3)
NAN, INF = float("nan"), float("inf")
FLOATS = "float32, float64, bfloat16 or float16"


def conv(x=X, weight=W, **options):
    return ops.modulated_conv3d(x, weight, **options)


REFUSED = {  # call -> the whole sentence, or its start up to the dots
    "conv x rank": (lambda: conv(X[0, 0]), "modulated_conv3d: x must be [B, C, T, H, W] or [B, C, H, W], got shape (4, 5, 6)"),
    "conv weight rank": (lambda: conv(X, W2), "modulated_conv3d: weight must be [O, I, t, h, w] for video, got shape (4, 3, 3, 3)"),
    "image weight rank": (lambda: conv(IMAGE, W), "modulated_conv3d: weight must be [O, I, h, w] for images, got shape (4, 3, 3, 3, 3)"),
    "conv channels": (lambda: conv(X[:, :2]), "modulated_conv3d: weight must be [O, 2, ...] for x of 2 channels, got shape (4, 3, 3, 3, 3)"),
    "conv even taps": (lambda: conv(weight=W[..., :2]), "modulated_conv3d: weight must be of odd taps, got shape (4, 3, 3, 3, 2)"),
    "conv no outputs": (lambda: conv(weight=W[:0]), "modulated_conv3d: weight must be [O, 3, ...] for x of 3 channels, got shape (0, 3, 3, 3, 3)"),
    "conv x int": (lambda: conv(X.int()), f"modulated_conv3d: x must be {FLOATS}, got torch.int32"),
    "conv x complex": (lambda: conv(X.to(torch.complex64)), f"modulated_conv3d: x must be {FLOATS}, got torch.complex64"),
    "conv weight bool": (lambda: conv(weight=W.bool()), f"modulated_conv3d: weight must be {FLOATS}, got torch.bool"),
    "conv bias int": (lambda: conv(bias=torch.zeros(4).long()), f"modulated_conv3d: bias must be {FLOATS}, got torch.int64"),
    "conv weight meta": (lambda: conv(weight=W.to("meta")), "modulated_conv3d: weight must be on cpu like x, got meta"),
    "conv noise meta": (lambda: conv(noise=torch.zeros(1, device="meta")), "modulated_conv3d: noise must be on cpu like x, got meta"),
    "conv x sparse": (lambda: conv(X.to_sparse()), "modulated_conv3d: x must be a dense tensor, got layout torch.sparse_coo"),
    "conv x list": (lambda: conv([1, 2]), "modulated_conv3d: x must be a tensor, got list"),
    "conv x none": (lambda: conv(None), "modulated_conv3d: x must be a tensor, got NoneType"),
    "conv x numpy": (lambda: conv(X.numpy()), "modulated_conv3d: x must be a tensor, got ndarray"),
    "conv weight number": (lambda: conv(weight=3.0), "modulated_conv3d: weight must be a tensor, got float"),
    "conv style list": (lambda: conv(style=[1]), "modulated_conv3d: style must be a tensor, got list"),
    "conv style shape": (lambda: conv(style=torch.zeros(2, 4)), "modulated_conv3d: style must be [B, I] = (2, 3), got shape (2, 4)"),
    "conv bias shape": (lambda: conv(bias=torch.zeros(3)), "modulated_conv3d: bias must be [O] = (4,), got shape (3,)"),
    "conv noise shape": (lambda: conv(noise=torch.zeros(2, 1, 4, 5, 7)), "modulated_conv3d: noise must be broadcastable to (2, 4, 4, 5, 6), got shape (2, 1, 4, 5, 7)"),
    "conv noise rank": (lambda: conv(noise=torch.zeros(1, 1, 1, 1, 1, 1)), "modulated_conv3d: noise must be broadcastable to (2, 4, 4, 5, 6), got shape (1, 1, 1, 1, 1, 1)"),
    "conv up and down": (lambda: conv(up=2, down=2), "modulated_conv3d: up and down cannot meet in one call, got up=(2, 2, 2), down=(2, 2, 2)"),
    "conv up 3": (lambda: conv(up=3), "modulated_conv3d: up must be 1, 2 or one of them per axis, got 3"),
    "conv down 0": (lambda: conv(down=0), "modulated_conv3d: down must be 1, 2 or one of them per axis, got 0"),
    "conv up pair": (lambda: conv(up=(2, 2)), "modulated_conv3d: up must be 1, 2 or one of them per axis, got (2, 2)"),
    "conv up none": (lambda: conv(up=None), "modulated_conv3d: up must be 1, 2 or one of them per axis, got None"),
    "conv down float": (lambda: conv(down=2.5), "modulated_conv3d: down must be 1, 2 or one of them per axis, got 2.5"),
    "image up in time": (lambda: conv(IMAGE, W2, up=(2, 2, 2)), "modulated_conv3d: up must be 1, 2 or one of them per axis, got (2, 2, 2)"),
    "conv padding word": (lambda: conv(padding="full"), "modulated_conv3d: padding must be 'same', 'valid', an integer or 3 of them, got 'full'"),
    "conv padding negative": (lambda: conv(padding=-1), "modulated_conv3d: padding must be 'same', 'valid', an integer or 3 of them, got -1"),
    "conv padding pair": (lambda: conv(padding=(1, 1)), "modulated_conv3d: padding must be 'same', 'valid', an integer or 3 of them, got (1, 1)"),
    "conv padding float": (lambda: conv(padding=1.0), "modulated_conv3d: padding must be 'same', 'valid', an integer or 3 of them, got 1.0"),
    "conv too small": (lambda: conv(X[:, :, :1], padding="valid"), "modulated_conv3d: x must be large enough for taps (3, 3, 3), padding (0, 0, 0) and down (1, 1, 1), got shape (2, 3, 1, 5, 6)"),
    "conv gain nan": (lambda: conv(gain=NAN), "modulated_conv3d: gain must be a finite number, got nan"),
    "conv gain word": (lambda: conv(gain="2"), "modulated_conv3d: gain must be a finite number, got '2'"),
    "conv slope inf": (lambda: conv(slope=INF), "modulated_conv3d: slope must be a finite number, got inf"),
    "conv slope bool": (lambda: conv(slope=True), "modulated_conv3d: slope must be a finite number, got True"),
    "conv eps negative": (lambda: conv(eps=-1), "modulated_conv3d: eps must be a finite number of at least 0, got -1"),
    "conv impl": (lambda: conv(impl="cuda"), "modulated_conv3d: impl must be one of cpp, triton, reference, got 'cuda'"),
    "conv cpp with negative slope": (lambda: conv(slope=-0.5, impl="cpp"), "modulated_conv3d: impl='cpp' cannot run: the fused backward reads the sign of the output, which needs slope >= 0 and gain > 0"),
    "conv cpp with 17 taps": (lambda: conv(weight=torch.zeros(4, 3, 1, 1, 17), impl="cpp"), "modulated_conv3d: impl='cpp' cannot run: taps (1, 1, 17) are more than 15 on an axis"),
    "conv flag": (lambda: conv(pixel_norm=X), "modulated_conv3d: pixel_norm must be True or False, got shape (2, 3, 4, 5, 6)"),
    "norm rank": (lambda: ops.pixel_norm(X[0, 0]), "pixel_norm: x must be [B, C, T, H, W] or [B, C, H, W], got shape (4, 5, 6)"),
    "norm int": (lambda: ops.pixel_norm(X.int()), f"pixel_norm: x must be {FLOATS}, got torch.int32"),
    "norm number": (lambda: ops.pixel_norm(1.0), "pixel_norm: x must be a tensor, got float"),
    "norm sparse": (lambda: ops.pixel_norm(X.to_sparse()), "pixel_norm: x must be a dense tensor, got layout torch.sparse_coo"),
    "norm eps": (lambda: ops.pixel_norm(X, eps=-1e-9), "pixel_norm: eps must be a finite number of at least 0, got -1e-09"),
    "norm slope": (lambda: ops.pixel_norm(X, slope=NAN), "pixel_norm: slope must be a finite number, got nan"),
    "norm impl": (lambda: ops.pixel_norm(X, impl="fast"), "pixel_norm: impl must be one of cpp, triton, reference, got 'fast'"),
    "stddev rank": (lambda: ops.minibatch_stddev(X[0, 0]), "minibatch_stddev: x must be [B, C, T, H, W] or [B, C, H, W], got shape (4, 5, 6)"),
    "stddev group": (lambda: ops.minibatch_stddev(torch.zeros(6, 3, 2, 2)), "minibatch_stddev: x must be a batch that is a multiple of the group size 4, got a batch of 6"),
    "stddev group 0": (lambda: ops.minibatch_stddev(X, group_size=0), "minibatch_stddev: group_size must be a positive integer, got 0"),
    "stddev group float": (lambda: ops.minibatch_stddev(X, group_size=2.0), "minibatch_stddev: group_size must be a positive integer, got 2.0"),
    "stddev eps": (lambda: ops.minibatch_stddev(X, eps=-1), "minibatch_stddev: eps must be a finite number of at least 0, got -1"),
    "head rank": (lambda: ops.sliced_head(X, X, X, X), "sliced_head: y must be [B, D], got shape (2, 3, 4, 5, 6)"),
    "head scale": (lambda: ops.sliced_head(torch.zeros(2, 3), torch.zeros(4, 3), torch.zeros(3), torch.zeros(4)), "sliced_head: scale must be [K] = (4,), got shape (3,)"),
    "distance to nothing": (lambda: ops.sliced_wasserstein(torch.zeros(0, 3), torch.zeros(2, 3)), "sliced_wasserstein: x must be [N, D] with at least one sample"),
    "distance features": (lambda: ops.sliced_wasserstein(torch.zeros(2, 3), torch.zeros(2, 4)), "sliced_wasserstein: y must be [M, 3] like x, got shape (2, 4)"),
    "using": (lambda: ops.using("fused").__enter__(), "using: impl must be one of cpp, triton, reference, got 'fused'"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_one_sentence(name: str):
    call, sentence = REFUSED[name]
    if "impl='cpp'" in sentence and (reason := choose.unavailable("cpp", "cpu")):
        pytest.skip(reason)
    with pytest.raises(ValueError, match="^" + re.escape(sentence)):
        call()


@pytest.mark.parametrize("call", [lambda impl: conv(impl=impl), lambda impl: ops.pixel_norm(X, impl=impl)])
def test_an_implementation_that_cannot_run_says_why(call, monkeypatch):
    monkeypatch.setattr(choose, "INTERPRETED", False)
    with pytest.raises(ValueError, match=r"impl='triton' cannot run: triton (needs a GPU|is not installed)"):
        call("triton")
    monkeypatch.setattr(choose.native, "MISSING", "the compiled extension is on holiday")
    with pytest.raises(ValueError, match="impl='cpp' cannot run: the compiled extension is on holiday"):
        call("cpp")


@pytest.fixture
def reference_runs(monkeypatch) -> list:
    """One entry per run of pixel norm's reference."""
    runs, original = [], pixel_norm_reference.pixel_norm
    monkeypatch.setattr(pixel_norm_reference, "pixel_norm", lambda *a, **k: (runs.append(1), original(*a, **k))[1])
    return runs


@pytest.mark.skipif(choose.unavailable("cpp", "cpu") is not None, reason=str(choose.unavailable("cpp", "cpu")))
def test_using_reference_runs_the_reference_and_restores(reference_runs):
    ops.pixel_norm(X)
    assert not reference_runs
    with ops.using("reference"):
        ops.pixel_norm(X)
        assert len(reference_runs) == 1
        with ops.using("cpp"):
            ops.pixel_norm(X)
        assert len(reference_runs) == 1
        ops.pixel_norm(X, impl="cpp")  # the call's own argument comes first
        assert len(reference_runs) == 1
        with ops.using(None):
            ops.pixel_norm(X)
        assert len(reference_runs) == 1
        ops.pixel_norm(X)
        assert len(reference_runs) == 2
    with pytest.raises(KeyError), ops.using("reference"):
        raise KeyError
    ops.pixel_norm(X)
    assert len(reference_runs) == 2


def test_no_weight_gradients_restores_after_an_exception():
    with pytest.raises(KeyError), ops.no_weight_gradients():
        raise KeyError(choose.weight_gradients_wanted())
    assert choose.weight_gradients_wanted()


@pytest.mark.filterwarnings("ignore:var")  # torch's, of the variance over no elements
def test_random_objects_are_refused_and_never_crash():
    """2,000 calls with random Python objects: a result, ValueError or TypeError, nothing else."""
    objects = [
        None, True, 0, 1, 2, 3, -1, 2**70, 0.0, -0.5, 1e-8, NAN, INF, 1j, "", "same", "cpp", "reference", b"x", (), (1, 2), (2, 2, 2),
        (1, 1, 2), [1], [None], {}, {"a": 1}, {1}, object(), int, len, lambda: None, range(3), slice(None), Ellipsis, np.zeros(3),
        np.float32(1), np.zeros((2, 3, 4, 5, 6), "f4"), X, W, IMAGE, W2, X.double(), X.half(), X.int(), X.bool(), X.to("meta"),
        X.to_sparse(), X.to(torch.complex64), X[:0], X[..., :0], X[:, :0], X.mT, X.expand(5, 2, 3, 4, 5, 6), torch.zeros(()),
        torch.zeros(4), torch.zeros(2, 3), torch.nn.Parameter(X),
        torch.device("cpu"), torch.float32, torch.Size((2, 3)), (NAN, 1, 1), (2**70,) * 3, [[1]], ("1", "1", "1"),
    ]  # fmt: skip
    names = {
        ops.modulated_conv3d: [
            "style",
            "demodulate",
            "bias",
            "noise",
            "slope",
            "gain",
            "pixel_norm",
            "up",
            "down",
            "padding",
            "eps",
            "impl",
        ],
        ops.pixel_norm: ["slope", "eps", "impl"],
        ops.minibatch_stddev: ["group_size", "eps", "impl"],
        ops.sliced_head: ["slope", "impl"],
        ops.sliced_wasserstein: ["projections", "num_projections", "p", "seed", "impl"],
    }
    good = {
        ops.modulated_conv3d: (X, W),
        ops.pixel_norm: (X,),
        ops.minibatch_stddev: (X,),
        ops.sliced_head: (torch.zeros(2, 3), torch.zeros(4, 3), torch.zeros(4), torch.zeros(4)),
        ops.sliced_wasserstein: (torch.zeros(2, 3), torch.zeros(2, 3)),
    }
    draw, refused, worked, crashed = random.Random(0), 0, 0, []
    for _ in range(2000):
        op = draw.choice(list(names))
        arguments = [draw.choice(objects) if draw.random() < 0.3 else value for value in good[op]]
        options = {name: draw.choice(objects) for name in names[op] if draw.random() < 0.3}
        tuple_of = lambda v: (v.dtype, *v.shape) if isinstance(v, torch.Tensor) else v  # noqa: E731
        shown = [op.__name__, [tuple_of(v) for v in arguments], {name: tuple_of(v) for name, v in options.items()}]
        try:
            op(*arguments, **options)
            worked += 1
        except (ValueError, TypeError):
            refused += 1
        except Exception as error:
            crashed.append(f"{type(error).__name__}: {str(error)[:300]} from {shown}")
    assert not crashed, "\n".join(crashed)
    assert refused > 1000
    assert worked > 100
