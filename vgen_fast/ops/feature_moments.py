"""Streaming mean and covariance of features, and the Frechet distance (FID, FVD) between two sets of them.

Rows are kept until BLOCK_ROWS of them are there; a full block is centred on its own mean, and its scatter and its
distance to the running mean are added pairwise (Chan, Golub and LeVeque), so nothing ever cancels, however far from
zero the features are. Where a block ends depends on the index of the row alone, so the result is the same bits
however the stream was batched.
"""

import math

import torch
from torch import Tensor

from . import expect
from .choose import choose
from .native import _C, address, compute_dtype, where
from .reference import feature_moments as reference

ORDER = 0
OP = "feature_moments"
BLOCK_ROWS = 512  # the d^2 accumulator is read and written once per block


class FeatureMoments:
    """Count, mean and covariance of a stream of feature vectors `[N, dim]`, in O(dim^2) memory.

    Not differentiable. Pickles, and has state_dict() / load_state_dict(), so that processes can merge their shares.
    """

    def __init__(self, dim: int, *, device: torch.device | str | None = None, impl: str | None = None):
        expect.positive_integer("FeatureMoments", "dim", dim)
        self.dim = dim
        self.impl = impl
        self._count = 0  # rows inside mean and scatter; the others wait in the buffer
        self._mean = torch.zeros(dim, dtype=torch.float64, device=device)
        self._scatter = torch.zeros(dim, dim, dtype=torch.float64, device=device)  # lower triangle
        self._buffer = torch.empty(0, dim, device=device)
        self._waiting = 0
        self._choose()

    def _choose(self) -> str:
        return choose(OP, self.impl, self.device, lambda impl: lacks(impl, self.device.type))

    @property
    def device(self) -> torch.device:
        return self._mean.device

    @property
    def count(self) -> int:
        return self._count + self._waiting

    @torch.no_grad()
    def update(self, features: Tensor) -> None:
        """Adds rows `[N, dim]` of any float type; N may be 0."""
        expect.tensor("FeatureMoments", "features", features)
        if features.ndim != 2 or features.shape[1] != self.dim:
            expect.fail("FeatureMoments", "features", f"[N, {self.dim}]", expect.shape(features))
        self._refuse_non_finite(features)
        if not len(features):
            return
        if not len(self._buffer):
            self._buffer = torch.empty(BLOCK_ROWS, self.dim, dtype=features.dtype, device=self.device)
        dtype = torch.promote_types(self._buffer.dtype, features.dtype)
        if dtype != self._buffer.dtype:
            self._buffer = self._buffer.to(dtype)
        start = 0
        while start < len(features):
            taken = min(BLOCK_ROWS - self._waiting, len(features) - start)
            self._buffer[self._waiting : self._waiting + taken] = features[start : start + taken]
            self._waiting += taken
            start += taken
            if self._waiting == BLOCK_ROWS:
                self._count, self._mean = self._absorb(self._mean, self._scatter)
                self._waiting = 0

    def _refuse_non_finite(self, features: Tensor) -> None:
        if math.isfinite(features.sum(dtype=compute_dtype(features.dtype)).item()):
            return
        bad = (~features.isfinite()).any(dim=1).nonzero()
        if len(bad):
            row = int(bad[0])
            place = f"row {row} of this update (row {self.count + row} of the stream)"
            raise ValueError(f"FeatureMoments: features must be finite, got NaN or infinity in {place}")

    def _absorb(self, mean: Tensor, scatter: Tensor) -> tuple[int, Tensor]:
        """Adds the buffer to scatter in place; returns the new count and mean."""
        rows, waiting = self._buffer[: self._waiting], self._waiting
        count = self._count + waiting
        block_mean = rows.mean(dim=0, dtype=torch.float64)
        delta = block_mean - mean
        between = delta * math.sqrt(self._count * waiting / count)
        torch.ops.vgen_fast.feature_moments_update(scatter, rows, block_mean, between, self._choose())
        return count, mean + delta * (waiting / count)

    def _totals(self) -> tuple[int, Tensor, Tensor]:
        """Count, mean and scatter (lower triangle) of all rows; nothing in them is shared with the state."""
        scatter = self._scatter.clone()
        if not self._waiting:
            return self._count, self._mean.clone(), scatter
        return *self._absorb(self._mean, scatter), scatter

    @torch.no_grad()
    def merge(self, other: "FeatureMoments") -> None:
        """Adds the rows of other, which stays as it is."""
        if not isinstance(other, FeatureMoments) or other.dim != self.dim:
            got = f"dim {other.dim}" if isinstance(other, FeatureMoments) else type(other).__name__
            expect.fail("FeatureMoments", "other", f"FeatureMoments of dim {self.dim}", got)
        if not other.count:
            return
        if not self.count:
            self.load_state_dict(other.state_dict())
            return
        count, mean, scatter = self._totals()
        count_b, mean_b, scatter_b = other._totals()
        delta = mean_b.to(self.device) - mean
        total = count + count_b
        scatter += scatter_b.to(self.device)
        scatter.addr_(delta, delta, alpha=count * count_b / total)
        self._count, self._mean, self._scatter, self._waiting = total, mean + delta * (count_b / total), scatter, 0

    @property
    @torch.no_grad()
    def mean(self) -> Tensor:
        """`[dim]` in float64."""
        if not self.count:
            raise ValueError("FeatureMoments: the mean needs at least one row, got none")
        if not self._waiting:
            return self._mean.clone()
        block_mean = self._buffer[: self._waiting].mean(dim=0, dtype=torch.float64)
        return self._mean + (block_mean - self._mean) * (self._waiting / self.count)

    @torch.no_grad()
    def covariance(self) -> Tensor:
        """`[dim, dim]` in float64, unbiased (divided by count - 1)."""
        if self.count < 2:
            raise ValueError(f"FeatureMoments: a covariance needs at least two rows, got {self.count}")
        count, _, scatter = self._totals()
        lower = scatter.tril_().div_(count - 1)
        diagonal = lower.diagonal().clone()
        symmetric = lower + lower.T
        symmetric.diagonal().copy_(diagonal)
        return symmetric

    def state_dict(self) -> dict[str, object]:
        return {
            "count": self._count,
            "mean": self._mean.clone(),
            "scatter": self._scatter.clone(),
            "rows": self._buffer[: self._waiting].clone(),
        }

    def load_state_dict(self, state: dict[str, object]) -> None:
        wanted = {"count", "mean", "scatter", "rows"}
        if set(state) != wanted:
            expect.fail("FeatureMoments", "state", f"a dict of {sorted(wanted)}", sorted(state))
        rows = state["rows"]
        expect.has_shape("FeatureMoments", "mean", state["mean"], (self.dim,), "[dim]")
        expect.has_shape("FeatureMoments", "scatter", state["scatter"], (self.dim, self.dim), "[dim, dim]")
        if rows.ndim != 2 or rows.shape[1] != self.dim or len(rows) >= BLOCK_ROWS:
            expect.fail("FeatureMoments", "rows", f"fewer than {BLOCK_ROWS} rows of {self.dim}", expect.shape(rows))
        self._count = int(state["count"])
        self._mean = torch.empty_like(self._mean).copy_(state["mean"])
        self._scatter = torch.empty_like(self._scatter).copy_(state["scatter"])
        self._waiting = len(rows)
        self._buffer = torch.empty(BLOCK_ROWS, self.dim, dtype=rows.dtype, device=self.device)
        self._buffer[: self._waiting] = rows

    def __getstate__(self) -> dict[str, object]:
        return {"dim": self.dim, "device": self.device, "impl": self.impl, "state": self.state_dict()}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__init__(state["dim"], device=state["device"], impl=state["impl"])
        self.load_state_dict(state["state"])


def lacks(impl: str, device: str) -> str | None:
    """Why this op has no such implementation for this kind of device, or None."""
    if impl == "cpp" and device == "cuda":
        return "the C++ update runs on CPU; CUDA tensors have triton or the reference (cuBLAS)"
    return None


torch.library.define(
    "vgen_fast::feature_moments_update",
    "(Tensor(a!) scatter, Tensor rows, Tensor shift, Tensor extra, str impl) -> ()",
)


@torch.library.impl("vgen_fast::feature_moments_update", ("cpu", "cuda"))
def _update(scatter, rows, shift, extra, impl):
    rows, shift, extra = rows.contiguous(), shift.contiguous(), extra.contiguous()
    if impl == "triton":
        from vgen_fast.kernels import feature_moments as kernel

        kernel.rank_update(rows, shift, scatter)
        scatter.addr_(extra, extra)
    elif impl == "reference":
        reference.rank_update(rows, shift, extra, scatter)
    else:
        tensors = (address(t) for t in (rows, shift, extra, scatter))
        _C.feature_moments_update(where(rows), *tensors, *rows.shape)


@torch.library.register_fake("vgen_fast::feature_moments_update")
def _update_fake(scatter, rows, shift, extra, impl):
    return None


Gaussian = FeatureMoments | tuple[Tensor, Tensor]


@torch.no_grad()
def frechet_distance(a: Gaussian, b: Gaussian) -> Tensor:
    """|mu_1 - mu_2|^2 + Tr(S_1 + S_2 - 2 (S_1 S_2)^(1/2)): a float64 scalar, at least 0. Not differentiable.

    a, b  FeatureMoments with at least two rows each, or (mean [d], covariance [d, d]) pairs
    """
    (mean_a, covariance_a), (mean_b, covariance_b) = _gaussian("a", a), _gaussian("b", b)
    if mean_a.shape != mean_b.shape:
        expect.fail("frechet_distance", "b", f"of dim {mean_a.shape[0]} like a", f"dim {mean_b.shape[0]}")
    expect.same_device("frechet_distance", "b", mean_b, mean_a, "a")
    shift = (mean_a - mean_b).square().sum()
    traces = covariance_a.trace() + covariance_b.trace()
    return (shift + traces - 2 * _trace_of_root(covariance_a, covariance_b)).clamp_min(0)


def _gaussian(name: str, value: Gaussian) -> tuple[Tensor, Tensor]:
    if isinstance(value, FeatureMoments):
        covariance = value.covariance()
        return value.mean, covariance
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        expect.fail("frechet_distance", name, "FeatureMoments or a (mean, covariance) pair", type(value).__name__)
    for part, tensor in zip(("mean", "covariance"), value, strict=True):
        expect.tensor("frechet_distance", f"{part} of {name}", tensor)
    mean, covariance = (part.double() for part in value)
    if mean.ndim != 1 or mean.shape[0] == 0:
        expect.fail("frechet_distance", f"mean of {name}", "[d], d > 0", expect.shape(mean))
    expect.has_shape("frechet_distance", f"covariance of {name}", covariance, (*mean.shape, *mean.shape), "[d, d]")
    expect.same_device("frechet_distance", f"covariance of {name}", covariance, mean, "its mean")
    if not (mean.sum() + covariance.sum()).isfinite():  # a tenth of the time of asking every element
        expect.fail("frechet_distance", name, "finite", "NaN or infinity")
    return mean, covariance


def _trace_of_root(a: Tensor, b: Tensor) -> Tensor:
    """Tr (A B)^(1/2) of positive semi-definite A, B: the nuclear norm of F^T G for any A = F F^T, B = G G^T."""
    alive = (a.diagonal() > 0) & (b.diagonal() > 0)  # a constant feature adds nothing, and would end the Cholesky
    if not alive.all():
        a, b = a[alive][:, alive], b[alive][:, alive]
    if not len(a):
        return a.new_zeros(())
    (factor_a, failed_a), (factor_b, failed_b) = torch.linalg.cholesky_ex(a), torch.linalg.cholesky_ex(b)
    if failed_a and failed_b:  # squaring would leave sqrt(eps) on every null direction the two share
        return torch.linalg.svdvals(_thin_factor(a).T @ _thin_factor(b)).sum()
    if failed_a or failed_b:
        factor, other = (_thin_factor(b), a) if failed_b else (_thin_factor(a), b)
        product = factor.T @ other @ factor
    else:
        product = _congruent(factor_a, b, out=factor_b)  # whose memory is there: new pages would cost half a product
    return torch.linalg.eigvalsh(product).clamp_min(0).sqrt().sum()


def _congruent(lower: Tensor, other: Tensor, out: Tensor, block: int = 256) -> Tensor:
    """out, with L^T B L in its lower triangle, for lower triangular L and symmetric B: d^3 flops, not 4 d^3."""
    size = len(lower)
    for j in range(0, size, block):
        right = other[j:, j:] @ lower[j:, j : j + block]  # B L, as far as a row of L^T at or below j reaches
        for i in range(j, size, block):
            out[i : i + block, j : j + block] = lower[i:, i : i + block].T @ right[i - j :]
    return out


def _thin_factor(covariance: Tensor) -> Tensor:
    """F `[d, rank]` with F F^T = covariance, without the directions that hold rounding errors only."""
    values, vectors = torch.linalg.eigh(covariance)
    kept = values > values[-1].clamp_min(0) * len(values) * torch.finfo(torch.float64).eps
    return vectors[:, kept] * values[kept].sqrt()
