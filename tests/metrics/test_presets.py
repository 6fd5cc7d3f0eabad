"""Published protocols: what each measures, of what, and TGAN's from files in the published layout to the score."""

import numpy as np
import pytest
import torch

from vgen_fast.metrics import presets
from vgen_fast.metrics.inception_score import inception_score
from vgen_fast.metrics.presets import OWN, PROTOCOLS, central
from vgen_fast.metrics.scores import Scores, View
from vgen_fast.nets import c3d
from vgen_fast.nets.c3d import C3D
from vgen_fast.nets.weights import BadWeights


def clips(count: int, size: tuple[int, int, int], seed: int) -> torch.Tensor:
    drawn = torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(seed))
    return (drawn * 255).byte()


def stand_in(name: str, frames: bool = False) -> View:
    """As quick as it can be, with all parts that the networks have."""

    def see(video, labels):
        x = video.double().mean(dim=1).flatten(2).mean(dim=2)[:, :16]  # [N, 16]
        x = x[:, None] * torch.linspace(0.5, 1.5, 4, dtype=torch.float64)[:, None] if frames else x
        parts = ("features", "logits", "fc6", "fc7", "before_fc6", "pool5")
        return {**dict.fromkeys(parts, x), "probabilities": x.softmax(dim=-1)}

    return View(name, see)


@pytest.fixture
def networks(monkeypatch):
    monkeypatch.setattr(presets, "c3d_view", lambda prepare, how: stand_in(f"c3d {prepare.__name__}"))
    monkeypatch.setattr(presets, "i3d_view", lambda first=0, last=None: stand_in(f"i3d {first} {last}"))
    monkeypatch.setattr(presets, "inception_view", lambda: stand_in("inception", frames=True))


WANTED = {
    "tgan": ["inception score/c3d as_tgan/eps 1e-07"],
    "tgan2": ["inception score/c3d as_tgan2/eps 1e-20", "frechet/c3d as_tgan2/fc7"],
    "stylegan-v": ["frechet by n/i3d 0 None", "inception score/c3d as_tgan2/eps 0/10 splits"],
    "thesis": [
        "inception score/c3d as_tgan/eps 1e-07",
        "frechet/c3d as_tgan/fc6",
        "frechet/c3d as_tgan/before fc6",
        "frechet/c3d as_tgan/pool5",
        "frechet/c3d as_tgan/fc7",
        "pgan/middle frame",
        "pgan/10000 pairs/middle frame",
    ],
    "fvd": ["frechet/i3d 0 None"],
    "prediction": [
        "inception score/inception/eps 0",
        "frechet/inception",
        "frechet, frame by frame/inception",
        "frechet/i3d 1 25",
        "frechet/i3d 0 25",
    ],
}


@pytest.mark.parametrize("name", WANTED)
def test_a_protocol_measures_what_it_says(networks, monkeypatch, name):
    found = PROTOCOLS[name].metrics(0)
    assert [metric.protocol for metric in found] == WANTED[name]
    few = [metric for metric in found if "pairs" not in metric.protocol]  # 10,000 take their time
    scores = Scores(few)
    scores.update(real=clips(40, (16, 16, 16), 0), fake=clips(40, (16, 16, 16), 1), other=clips(40, (16, 16, 16), 2))
    for score in scores.compute().values():
        assert score.invalid is None
        assert score.low <= score.value <= score.high


def test_how_many_clips_and_how_often():
    numbers = {name: (p.clips, p.reals, p.times) for name, p in PROTOCOLS.items() if name != OWN}
    assert numbers == {
        "tgan": (9984, 9984, 4),
        "tgan2": (2048, 95370, 10),
        "stylegan-v": (2048, 2048, 1),
        "thesis": (10000, 10000, 1),
        "fvd": (256, 256, 1),
        "prediction": (256, 256, 1),
    }


def test_dividing_by_n_shrinks_the_covariances(networks):
    """Of the same means: the distance is that of scaled features."""
    real, fake = clips(30, (16, 16, 16), 0), clips(30, (16, 16, 16), 1)

    def value(name: str) -> float:
        scores = Scores([PROTOCOLS[name].metrics(0)[0]])
        scores.update(real=real, fake=fake)
        return scores.compute()["fvd"].value

    x, y = (stand_in("x").see(v, None)["logits"] for v in (real, fake))
    shift = float((x.mean(dim=0) - y.mean(dim=0)).square().sum())
    assert value("stylegan-v") - shift == pytest.approx((value("fvd") - shift) * 29 / 30)


def test_the_middle_of_longer_clips():
    video = torch.arange(32).view(1, 1, 32, 1, 1)
    assert central(video, 16).flatten().tolist() == list(range(8, 24))
    assert central(video[:, :, :17], 16).flatten().tolist() == list(range(16))
    with pytest.raises(ValueError, match="video must have 33 frames at least, got 32"):
        central(video, 33)


def test_views_of_other_means_have_other_names(tmp_path, monkeypatch):
    """Else what was remembered with the one would be read with the other."""
    monkeypatch.setenv("VGEN_FAST_WEIGHTS", str(tmp_path))
    monkeypatch.setattr(c3d, "load", lambda path: None)
    (tmp_path / c3d.CHAINER.file).touch()
    names = []
    for light in (90, 91):
        np.savez(tmp_path / presets.CUBE.file, mean=np.full((1, 3, 16, 128, 171), light, np.float32))
        names.append(presets.c3d_view(c3d.as_tgan, "128x128 bicubic").name)
    assert names[0] != names[1]
    assert names[0].partition(" less ")[0] == names[1].partition(" less ")[0]


def test_pictures_have_the_scores_that_take_no_motion():
    """Clips of one frame, as PGAN's recipes make them."""

    class Classifier:
        name = "means"

        def features(self, video):
            x = video.double().mean(dim=2).flatten(2).unflatten(2, (4, -1)).mean(dim=3).flatten(1)
            return x, x

    pictures = [clips(10, (1, 16, 16), seed) for seed in range(3)]
    scores = Scores(presets.own(Classifier(), (1, 16, 16), False, 0))
    scores.update(real=pictures[0], fake=pictures[1], other=pictures[2])
    found = scores.compute()
    assert set(found) == {"inception score", "frechet, clips", "frechet, frames", "pieces", "ms-ssim of pairs"}
    assert not any(score.invalid for score in found.values())
    longer = presets.own(Classifier(), (2, 16, 16), False, 0)
    motion = {"frechet, motion", "ms-ssim, frame to frame", "content distance"}
    assert {metric.name for metric in longer} - set(found) == motion


@pytest.mark.slow
def test_tgans_score_from_the_files_that_its_authors_published(tmp_path, monkeypatch):
    """All 78 million weights under the names of Chainer, drawn so that classes differ from clip to clip."""
    monkeypatch.setenv("VGEN_FAST_WEIGHTS", str(tmp_path))
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in C3D().state_dict().items()}
    rng, arrays = np.random.default_rng(0), {}
    for name, shape in shapes.items():
        layer, kind = name.split(".")
        spread = np.sqrt(2 / np.prod(shape[1:])) if kind == "weight" else 0.0
        arrays[f"{layer}/{'W' if kind == 'weight' else 'b'}"] = rng.standard_normal(shape, np.float32) * spread
    np.savez(tmp_path / "conv3d_deepnetA_ucf.npz", **{k: v.astype(np.float32) for k, v in arrays.items()})
    with pytest.raises(BadWeights, match=r"put mean2\.npz from https"):
        PROTOCOLS["tgan"].metrics(0)
    cube = rng.uniform(90, 110, (1, 3, 16, 128, 171)).astype(np.float32)
    np.savez(tmp_path / "mean2.npz", mean=cube)
    video = clips(4, (20, 24, 24), 0)
    scores = Scores(PROTOCOLS["tgan"].metrics(0))
    scores.update(fake=video)
    found = scores.compute()["inception score"]
    network = c3d.load(tmp_path / "conv3d_deepnetA_ucf.npz")
    with torch.no_grad():
        p = network(c3d.as_tgan(video[:, :, 2:18], torch.from_numpy(cube[0]))).logits.softmax(dim=1)
    assert found.value == pytest.approx(float(inception_score(p, eps=1e-7)), rel=1e-6)
    assert found.value > 1.001
    assert "c3d-ucf101@" in found.protocol
