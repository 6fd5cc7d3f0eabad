"""Streaming moments against two passes, the Frechet distance against closed forms and torchmetrics."""

import pickle

import pytest
import torch
from torchmetrics.image.fid import _compute_fid

from vgen_fast import _C
from vgen_fast.ops.feature_moments import BLOCK_ROWS, FeatureMoments, frechet_distance
from vgen_fast.ops.reference import feature_moments as reference

IMPLEMENTATIONS = ["reference", "cpp"]


def rows(count, dim, seed=0, offset=0.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(dim, dim, generator=generator, dtype=torch.float64)
    return (torch.randn(count, dim, generator=generator, dtype=torch.float64) @ mix + offset).to(dtype)


def moments(features, sizes=None, **options):
    found = FeatureMoments(features.shape[1], **options)
    for part in features.split(sizes or len(features)):
        found.update(part)
    return found


def close(got, wanted, relative=1e-12):
    torch.testing.assert_close(got, wanted, rtol=0, atol=relative * wanted.abs().max().item())


def test_reference_gives_the_table_worked_by_hand():
    mean, covariance = reference.mean_and_covariance(torch.tensor([[1.0, 0.0], [2.0, 4.0], [6.0, 2.0]]))
    assert mean.tolist() == [3.0, 2.0]
    assert covariance.tolist() == [[7.0, 1.0], [1.0, 4.0]]


def test_reference_covariance_equals_torch_cov():
    features = rows(40, 7)
    close(reference.mean_and_covariance(features)[1], features.T.cov())


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("count", "dim"), [(2, 1), (3, 2), (BLOCK_ROWS, 23), (BLOCK_ROWS + 1, 24), (3 * BLOCK_ROWS - 7, 131), (100, 101)]
)
def test_moments_equal_two_passes(impl, dtype, count, dim):
    features = rows(count, dim, dtype=dtype)
    found = moments(features, 37, impl=impl)
    mean, covariance = reference.mean_and_covariance(features)
    assert found.count == count
    assert found.covariance().dtype == found.mean.dtype == torch.float64
    close(found.mean, mean)
    close(found.covariance(), covariance)
    assert torch.equal(found.covariance(), found.covariance().T)


@pytest.mark.parametrize("isa", ["avx2", "avx512"])
@pytest.mark.parametrize("dim", [1, 5, 8, 24, 25, 97, 211])
def test_rank_update_adds_the_lower_triangle_on_every_instruction_set(isa, dim):
    before = _C.isa()
    try:
        try:
            _C.set_isa(isa)
        except ValueError:
            pytest.skip(f"this processor has no {isa}")
        features, shift, extra = rows(9, dim), rows(1, dim, 1)[0], rows(1, dim, 2)[0]
        start = rows(dim, dim, 3)
        results = []
        for impl in IMPLEMENTATIONS:
            out = start.clone()
            torch.ops.vgen_fast.feature_moments_update(out, features, shift, extra, impl)
            results.append(out.tril())
        close(results[1], results[0])
    finally:
        _C.set_isa(before)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("sizes", [1, 7, 64, BLOCK_ROWS, [1, BLOCK_ROWS, 687], [1200 - BLOCK_ROWS, 0, BLOCK_ROWS]])
def test_result_is_the_same_bits_however_the_stream_was_batched(impl, sizes):
    features = rows(1200, 29, dtype=torch.float32)
    whole, parts = moments(features, impl=impl), moments(features, sizes, impl=impl)
    assert torch.equal(parts.mean, whole.mean)
    assert torch.equal(parts.covariance(), whole.covariance())


def test_asking_in_the_middle_changes_nothing():
    features = rows(1300, 11)
    asked = FeatureMoments(11)
    for part in features.split(130):
        asked.update(part)
        asked.covariance()
        frechet_distance(asked, asked)
    assert torch.equal(asked.covariance(), moments(features).covariance())


def test_float_types_may_change_in_the_stream():
    parts = [rows(300, 6, i, dtype=d) for i, d in enumerate((torch.bfloat16, torch.float16, torch.float64))]
    found = FeatureMoments(6)
    for part in parts:
        found.update(part)
    close(found.covariance(), torch.cat([p.double() for p in parts]).T.cov())


@pytest.mark.parametrize("offset", [1e4, 1e6])
@pytest.mark.parametrize("split", [1500, 400])
def test_features_far_from_zero_keep_their_precision(offset, split):
    features = rows(1500, 13) + offset
    exact = (features - offset).T.cov()
    close(moments(features, split).covariance(), exact, relative=1e-9)
    merged = moments(features[:split])
    merged.merge(moments(features[split:]) if split < 1500 else FeatureMoments(13))
    close(merged.covariance(), exact, relative=1e-9)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_merging_in_any_order_equals_the_batch(order):
    features = torch.cat([rows(700, 9), rows(3, 9, 1, offset=1e4), rows(1100, 9, 2, offset=-50)])
    parts = [moments(p, 90) for p in features.split([700, 3, 1100])]
    kept = [p.covariance() for p in parts]
    merged = FeatureMoments(9)
    for i in order:
        merged.merge(parts[i])
    assert merged.count == 1803
    close(merged.covariance(), features.T.cov())
    close(merged.mean, features.mean(dim=0))
    assert all(torch.equal(p.covariance(), k) for p, k in zip(parts, kept, strict=True))
    extra = rows(600, 9, 5)
    merged.update(extra)
    close(merged.covariance(), torch.cat([features, extra]).T.cov())


def test_one_far_row_before_many_does_not_spoil_them():
    many = rows(5000, 4) + 1e6
    merged = moments(torch.zeros(1, 4).double())
    merged.merge(moments(many))
    mean, covariance = reference.mean_and_covariance(torch.cat([torch.zeros(1, 4).double(), many]))
    close(merged.covariance(), covariance)
    close(merged.mean, mean)


def test_merging_empty_sides_is_exact():
    full = moments(rows(530, 5))
    kept = full.covariance()
    full.merge(FeatureMoments(5))
    assert torch.equal(full.covariance(), kept)
    empty = FeatureMoments(5)
    empty.merge(full)
    assert torch.equal(empty.covariance(), kept)
    both = FeatureMoments(5)
    both.merge(FeatureMoments(5))
    assert both.count == 0
    full.merge(full)
    assert full.count == 1060


@pytest.mark.parametrize("through", ["pickle", "state_dict"])
def test_a_copy_goes_on_with_the_same_bits(through):
    features = rows(1400, 8)
    first = moments(features[:900])
    if through == "pickle":
        copy = pickle.loads(pickle.dumps(first))
    else:
        copy = FeatureMoments(8)
        copy.load_state_dict(first.state_dict())
    copy.update(features[900:])
    assert torch.equal(copy.covariance(), moments(features).covariance())
    assert first.count == 900


def test_non_contiguous_features_are_read_right():
    features = rows(600, 20)
    close(moments(features[::2, ::3]).covariance(), features[::2, ::3].T.cov())


def test_features_that_require_gradients_leave_no_graph():
    found = moments(rows(20, 3).requires_grad_(True))
    assert not found.covariance().requires_grad


def test_large_finite_features_are_not_refused():
    found = FeatureMoments(4)
    found.update(torch.full((3, 4), 60000.0, dtype=torch.float16))
    assert found.mean.tolist() == [60000.0] * 4


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_non_finite_row_is_named_and_leaves_the_state_alone(value):
    found = moments(rows(10, 3))
    bad = rows(5, 3)
    bad[2, 1] = value
    with pytest.raises(ValueError, match=r"features must be finite.*row 2 of this update \(row 12 of the stream\)"):
        found.update(bad)
    assert found.count == 10


@pytest.mark.parametrize("count", [0, 1])
def test_covariance_of_too_few_rows_is_refused(count):
    found = moments(rows(2, 3)[:count], 1)
    with pytest.raises(ValueError, match=f"a covariance needs at least two rows, got {count}"):
        found.covariance()
    with pytest.raises(ValueError, match="at least two rows"):
        frechet_distance(found, found)


def test_mean_of_nothing_is_refused():
    with pytest.raises(ValueError, match="the mean needs at least one row"):
        FeatureMoments(2).mean  # noqa: B018


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f: f.update(torch.zeros(2, 3)), r"features must be \[N, 4\], got shape \(2, 3\)"),
        (lambda f: f.update(torch.zeros(4)), r"features must be \[N, 4\]"),
        (lambda f: f.update(torch.zeros(2, 4).int()), "features must be float32, float64, bfloat16 or float16"),
        (lambda f: f.merge(FeatureMoments(3)), "other must be FeatureMoments of dim 4, got dim 3"),
        (lambda f: f.merge(None), "other must be FeatureMoments of dim 4, got NoneType"),
        (lambda f: f.load_state_dict({}), "state must be a dict of"),
        (lambda f: f.load_state_dict(FeatureMoments(3).state_dict()), r"mean must be \[dim\] = \(4,\)"),
        (lambda f: FeatureMoments(0), "dim must be a positive integer, got 0"),
        (lambda f: FeatureMoments(2, impl="numpy"), "impl must be one of"),
        (lambda f: frechet_distance(f, 3), r"b must be FeatureMoments or a \(mean, covariance\) pair, got int"),
        (lambda f: frechet_distance(f, moments(rows(5, 3))), "b must be of dim 4 like a, got dim 3"),
        (lambda f: frechet_distance(f, (torch.zeros(4), torch.zeros(3, 4))), r"covariance of b must be \[d, d\]"),
        (lambda f: frechet_distance(f, (torch.zeros(4) / 0, torch.eye(4))), "b must be finite, got NaN or infinity"),
    ],
)
def test_refused_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(moments(rows(5, 4)))


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_opcheck(impl):
    inputs = torch.zeros(5, 5).double(), rows(3, 5, dtype=torch.float32), rows(1, 5)[0], rows(1, 5, 1)[0], impl
    torch.library.opcheck(torch.ops.vgen_fast.feature_moments_update.default, inputs)


# ------------------------------------------------------------------------------------------------- Frechet distance


@pytest.mark.parametrize("distance", [frechet_distance, reference.frechet_distance])
def test_distance_of_gaussians_with_one_basis_equals_the_closed_form(distance):
    basis = torch.linalg.qr(rows(6, 6)).Q
    a, b = torch.tensor([1.0, 2, 3, 4, 5, 6]).double(), torch.tensor([9.0, 4, 1, 0.25, 0.01, 16]).double()
    mean_a, mean_b = rows(1, 6, 1)[0], rows(1, 6, 2)[0]
    wanted = (mean_a - mean_b).square().sum() + (a.sqrt() - b.sqrt()).square().sum()
    got = distance((mean_a, basis * a @ basis.T), (mean_b, basis * b @ basis.T))
    assert got.item() == pytest.approx(wanted.item(), rel=1e-10)


def test_distance_of_one_dimensional_gaussians_equals_the_closed_form():
    a, b = (torch.tensor([1.0]), torch.tensor([[4.0]])), (torch.tensor([-2.0]), torch.tensor([[25.0]]))
    assert frechet_distance(a, b).item() == pytest.approx(9 + 9)


@pytest.mark.parametrize("dim", [1, 2, 17, 64])
def test_distance_equals_torchmetrics_and_the_reference(dim):
    a, b = moments(rows(4 * dim + 2, dim, 1)), moments(rows(3 * dim + 2, dim, 2, offset=0.5))
    got = frechet_distance(a, b).item()
    assert got == pytest.approx(_compute_fid(a.mean, a.covariance(), b.mean, b.covariance()).item(), rel=1e-8)
    pairs = [(s.mean, s.covariance()) for s in (a, b)]
    assert got == pytest.approx(reference.frechet_distance(*pairs).item(), rel=1e-8)
    assert got == pytest.approx(frechet_distance(*pairs).item(), rel=1e-12)
    assert got == pytest.approx(frechet_distance(b, a).item(), rel=1e-8)


@pytest.mark.parametrize(("count", "dim"), [(200, 40), (41, 40), (40, 40), (20, 40), (2, 40), (150, 300)])
def test_distance_of_a_set_with_itself_is_zero(count, dim):
    found = moments(rows(count, dim))
    assert 0 <= frechet_distance(found, found).item() <= 1e-6 * found.covariance().trace().item()


@pytest.mark.parametrize(("count_a", "count_b"), [(30, 25), (30, 500), (500, 30), (2, 2), (100, 101)])
def test_distance_of_rank_deficient_sets_equals_the_nuclear_norm(count_a, count_b):
    # Tr (S_1 S_2)^(1/2) is the nuclear norm of X_1 X_2^T for centred rows, with no square root of a rounding error.
    features = rows(count_a, 100, 1), rows(count_b, 100, 2, offset=0.1)
    means = [f.mean(dim=0) for f in features]
    centred = [(f - f.mean(dim=0)) / (len(f) - 1) ** 0.5 for f in features]
    root = torch.linalg.svdvals(centred[0] @ centred[1].T).sum()
    wanted = (means[0] - means[1]).square().sum() + sum(c.square().sum() for c in centred) - 2 * root
    got = frechet_distance(*(moments(f) for f in features))
    assert got.item() == pytest.approx(wanted.item(), rel=1e-6)


def test_constant_features_count_by_their_mean_alone():
    a, b = rows(300, 10, 1), rows(400, 10, 2)
    wanted = frechet_distance(moments(a), moments(b)).item()
    a, b = (torch.cat([f, torch.full((len(f), 2), c).double()], dim=1) for f, c in ((a, 1.0), (b, 4.0)))
    assert frechet_distance(moments(a), moments(b)).item() == pytest.approx(wanted + 18, rel=1e-9)
    still = torch.full((5, 3), 2.0)
    assert frechet_distance(moments(still), moments(still + 1)).item() == pytest.approx(3)


def test_distance_ignores_a_common_offset():
    a, b = rows(700, 12, 1), rows(700, 12, 2)
    near = frechet_distance(moments(a), moments(b)).item()
    far = frechet_distance(moments(a + 1e6), moments(b + 1e6)).item()
    assert far == pytest.approx(near, rel=1e-8)
