"""Several scores in one pass: against torchmetrics, in any order, and of clips that have no score."""

import math
import pickle
from itertools import permutations

import pytest
import torch
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.inception import InceptionScore

from vgen_fast.metrics import measures
from vgen_fast.metrics.interval import interval
from vgen_fast.metrics.measures import COLOURS, FRAME, content_view
from vgen_fast.metrics.protocol import read, write
from vgen_fast.metrics.scores import Metric, Scores, View

FEATURES = 6


def clips(count: int, seed: int, bright: float = 1.0) -> torch.Tensor:
    drawn = torch.rand(count, 3, 4, 16, 16, generator=torch.Generator().manual_seed(seed))
    return (drawn * 255 * bright).byte()


def seen(video: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
    """A few means of pixels, as features and, in a softmax, as probabilities."""
    x = video.double().flatten(1) / 255
    features = torch.stack([part.mean(dim=1) for part in x.tensor_split(FEATURES, dim=1)], dim=1)
    return {"features": features, "probabilities": (50 * features).softmax(dim=1), "unused": x}


def metrics(see=seen) -> list[Metric]:
    view = View("means@0", see)
    return [
        measures.frechet_distance("frechet", view, "features", view.name),
        measures.inception("inception score", view, view.name),
        measures.pieces("pieces", FRAME, "frame", "middle frame"),
        measures.similarity_of_pairs("pairs", FRAME, "frame", "middle frame", pairs=50),
    ]


def computed(fake: torch.Tensor, other: torch.Tensor | None = None, **told) -> dict:
    scores = Scores(metrics(**told), "test")
    scores.update(real=clips(80, 0), fake=fake, other=other)
    return scores.compute()


class Means(torch.nn.Module):
    num_features = FEATURES

    def __init__(self, part: str):
        super().__init__()
        self.part = part

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        found = seen(pictures[:, :, None].expand(-1, -1, 4, -1, -1), torch.empty(0))
        return found["features"] if self.part == "features" else found["probabilities"].log()


def test_they_equal_those_of_torchmetrics_on_the_same_features():
    still = lambda seed: clips(80, seed)[:, :, :1].expand(-1, -1, 4, -1, -1)  # noqa: E731
    scores = Scores(metrics())
    scores.update(real=still(0), fake=still(1))
    found = scores.compute()
    fid = FrechetInceptionDistance(Means("features")).set_dtype(torch.float64)
    fid.update(still(0)[:, :, 0], real=True)
    fid.update(still(1)[:, :, 0], real=False)
    assert found["frechet"].value == pytest.approx(float(fid.compute()), rel=1e-5)
    score = InceptionScore(Means("probabilities"), splits=1).set_dtype(torch.float64)
    score.update(still(1)[:, :, 0])
    assert found["inception score"].value == pytest.approx(float(score.compute()[0]), rel=1e-5)


def test_a_network_is_asked_once_for_all_scores_and_only_what_they_want_is_kept():
    asked = []

    def see(video, labels):
        asked.append(len(video))
        return seen(video, labels)

    scores = Scores(metrics(see))
    scores.update(real=clips(50, 0), fake=clips(40, 1))
    scores.compute()
    assert sum(asked) == 90
    assert set(scores.kept["fake"]["means@0"]) == {"features", "probabilities"}


def test_batches_processes_and_their_order_do_not_matter():
    """Shares of 1, 33 and 46 clips, each by a process of its own, whose state travels."""
    whole, shares = computed(clips(80, 1)), clips(80, 1).split([1, 33, 46])
    states = []
    for fake, real in zip(shares, clips(80, 0).split([1, 33, 46]), strict=True):
        own = Scores(metrics())
        own.update(real=real, fake=fake)
        states.append(pickle.dumps(own.state()))
    for order in permutations(states):
        scores = Scores(metrics(), "test")
        for state in order:
            scores.merge(pickle.loads(state))
        found = scores.compute()
        assert found == whole
    shuffled = Scores(metrics(), "test")
    shuffled.update(real=clips(80, 0).flip(0), fake=clips(80, 1)[torch.randperm(80)])
    assert shuffled.compute() == whole


def test_clips_that_come_class_by_class_have_every_class_in_every_split():
    """Three classes that are told apart surely: a score of 3 in each split, and not 1."""
    view = View("classes", lambda video, labels: {"probabilities": torch.eye(3)[labels]})
    scores = Scores([measures.inception("inception score", view, view.name, splits=3)])
    scores.update(fake=clips(90, 0), labels=torch.arange(3).repeat_interleave(30))
    assert min(scores.compute()["inception score"].values) > 2.8


def test_scores_of_other_metrics_are_not_merged():
    other = Scores(metrics()[:1])
    with pytest.raises(ValueError, match="the other scores are frechet/means@0"):
        Scores(metrics()).merge(other.state())


def test_every_score_has_an_interval_its_protocol_and_that_of_other_reals():
    found = computed(clips(80, 1, 0.5), other=clips(80, 2))
    for score in found.values():
        assert score.low <= score.value <= score.high
        assert score.invalid is None
        assert score.protocol.endswith("80 clips/4x16x16/test")
    assert found["frechet"].protocol == "frechet/means@0/80 clips/4x16x16/test"
    assert found["frechet"].real < found["frechet"].low
    assert "/30 clips against 80/" in computed(clips(30, 1))["frechet"].protocol
    assert "/30 clips/" in computed(clips(30, 1))["inception score"].protocol


def test_without_other_reals_only_distances_have_nothing_beside_them():
    """As many of the real clips as there are fake ones stand beside the others: the inception score grows with them."""
    found = computed(clips(30, 1))
    assert math.isnan(found["frechet"].real)
    assert math.isnan(found["pieces"].real)
    alone = Scores(metrics()[1:2])
    alone.update(fake=clips(80, 0), real=clips(80, 0))
    whole = alone.compute()["inception score"]
    assert whole.real == whole.value
    scores = Scores(metrics()[1:2])
    scores.update(fake=clips(30, 1), real=clips(80, 0))
    some = scores.compute()["inception score"]
    assert 1 < some.real < whole.real


@pytest.mark.parametrize(
    ("fake", "valid"),
    [
        (clips(1, 1), set()),
        (clips(2, 1), set()),
        (clips(3, 1), {"frechet", "inception score", "pieces", "pairs"}),
        (torch.full((20, 3, 4, 16, 16), 7, dtype=torch.uint8), {"frechet", "inception score", "pieces", "pairs"}),
    ],
    ids=["one clip", "two clips", "three clips", "constant clips"],
)
def test_one_and_two_clips_have_no_scores_and_constant_ones_have_them(fake, valid):
    found = computed(fake)
    assert {name for name, score in found.items() if not score.invalid} == valid
    for name, score in found.items():
        assert math.isfinite(score.value) == math.isfinite(score.low + score.high) == (name in valid)
        if not valid:
            assert score.invalid == f"a score and its interval take 3 generated clips at least, got {len(fake)}"


def test_features_that_are_no_numbers_make_a_score_invalid_and_not_the_best(tmp_path):
    def broken(video, labels):
        return {**seen(video, labels), "features": seen(video, labels)["features"] * torch.nan}

    found = computed(clips(40, 1), see=broken)["frechet"]
    assert math.isnan(found.value)
    assert "features must be finite, got NaN or infinity" in found.invalid
    write(tmp_path / "scores.json", {"frechet": found}, {})
    assert "NaN," not in (tmp_path / "scores.json").read_text()  # JSON has none
    again = read(tmp_path / "scores.json")["frechet"]
    assert math.isnan(again.value)
    assert again.invalid == found.invalid


def test_splits_have_a_deviation_and_frames_of_a_rollout_none():
    view = View("means@0", seen)
    frames = View("frames", lambda video, labels: {"features": video.double().mean(dim=(3, 4)).transpose(1, 2)})
    scores = Scores(
        [
            measures.inception("inception score", view, view.name, splits=5),
            measures.frechet_over_time("frame by frame", frames, "features", frames.name),
        ]
    )
    scores.update(real=clips(40, 0), fake=clips(40, 1))
    found = scores.compute()
    split, rollout = found["inception score"], found["frame by frame"]
    assert len(split.values) == 5
    assert split.value == pytest.approx(sum(split.values) / 5)
    assert split.deviation == pytest.approx(math.sqrt(sum((v - split.value) ** 2 for v in split.values) / 5))
    assert len(rollout.values) == 4
    assert rollout.deviation is None
    assert rollout.low < rollout.value < rollout.high


def test_what_a_network_made_of_real_clips_is_read_the_next_time(tmp_path):
    asked = []

    def see(video, labels):
        asked.append(len(video))
        return seen(video, labels)

    def once(real: torch.Tensor) -> float:
        asked.clear()
        scores = Scores(metrics(see)[:2], memory=tmp_path)
        scores.update(real=real)
        scores.update(fake=clips(20, 1))
        return scores.compute()["frechet"].value

    first = once(clips(40, 0))
    assert sum(asked) == 60
    assert once(clips(40, 0)) == first
    assert sum(asked) == 20  # the fake ones
    changed = clips(40, 0)
    changed[39, 0, 0, 0, 0] ^= 1
    assert once(changed) != first
    assert sum(asked) == 28  # and the real ones of the second batch
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:50])
    assert once(clips(40, 0)) == first
    assert sum(asked) == 60


def test_what_anybodys_descriptor_makes_of_real_clips_is_not_remembered(tmp_path):
    """The text of the function may be another the next time, under the same name."""

    def content(light: float) -> torch.Tensor:
        view = content_view(lambda frames: light * frames.mean(axis=(1, 2)), "mine:embed")
        metric = measures.mean("content", "near", view, "content", view.name)
        scores = Scores([metric], memory=tmp_path)
        scores.update(real=clips(3, 0))
        return scores.rows("real", metric)["content"]

    assert torch.equal(2 * content(1.0), content(2.0))


def test_a_folder_that_cannot_be_written_costs_no_score(tmp_path):
    (tmp_path / "file").write_text("")
    scores = Scores(metrics()[:2], memory=tmp_path / "file")
    with pytest.warns(UserWarning, match="is not kept in .*file: .*File exists"):
        scores.update(real=clips(40, 0), fake=clips(20, 1))
    assert scores.compute()["frechet"].invalid is None


def test_clips_without_a_number_are_left_out_of_a_mean_and_none_at_all_is_invalid():
    metric = measures.mean("content", "near", COLOURS, "content", "colours")
    scores = Scores([metric])
    dark = torch.zeros(3, 3, 4, 16, 16, dtype=torch.uint8)
    scores.update(fake=torch.cat([dark, clips(5, 0)]))
    alone = Scores([metric])
    alone.update(fake=clips(5, 0))
    assert scores.compute()["content"].value == alone.compute()["content"].value
    scores.forget("fake")
    scores.update(fake=dark)
    assert scores.compute()["content"].invalid == "not one clip has such a number"


def test_wrong_clips_are_answered_by_a_sentence():
    scores = Scores(metrics())
    with pytest.raises(ValueError, match=r"fake must be uint8 \[B, 3, T, H, W\], got torch.float32"):
        scores.update(fake=clips(2, 0).float())
    scores.update(fake=clips(2, 0))
    with pytest.raises(ValueError, match=r"fake clips must have one size"):
        scores.update(fake=clips(2, 0)[:, :, :2])
    with pytest.raises(ValueError, match=r"scores want real clips"):
        scores.compute()
    with pytest.raises(ValueError, match="two metrics must not have one name"):
        Scores(metrics() + metrics())


def test_the_interval_of_pieces_is_as_wide_as_other_draws_lie_apart():
    """A chi-square of 23 and 19 degrees of freedom: a ratio beyond 2 comes once in 500 times."""
    metric = measures.pieces("pieces", FRAME, "frame", "middle frame")

    def pictures(seed: int, bright: float = 1.0) -> dict[str, torch.Tensor]:
        coarse = torch.rand(40, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
        return {"frame": (torch.nn.functional.interpolate(coarse, 16, mode="bilinear") * 255 * bright).byte()}

    drawn = torch.cat([metric.measure(pictures(2 * i), pictures(2 * i + 1, 0.6))[0] for i in range(24)])
    value, replicates = metric.measure(pictures(1000), pictures(1001, 0.6))
    assert replicates().mean().item() == pytest.approx(value.item())
    assert 0.5 < replicates().std() / drawn.std() < 2


def test_the_interval_of_pairs_is_as_wide_as_other_draws_lie_apart():
    """A picture is in many pairs: drawing pairs alone would find a sixth of the deviation here."""
    metric = measures.similarity_of_pairs("pairs", FRAME, "frame", "middle frame", pairs=1500)

    def pictures(seed: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        light = torch.rand(30, 1, 1, 1, generator=generator)  # alike where both are dark
        return {"frame": (light * torch.rand(30, 3, 16, 16, generator=generator) * 255).byte()}

    drawn = torch.cat([metric.measure({}, pictures(i))[0] for i in range(40)])
    value, replicates = metric.measure({}, pictures(1000))
    low, high = interval(replicates())
    assert low < value.item() < high
    assert 0.6 < replicates().std() / drawn.std() < 1.7
