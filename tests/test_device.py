"""Verbs run their networks where they are told to. Without a GPU: on the meta device, which mixes with no other."""

from contextlib import nullcontext

import pytest
import torch

from tests.models.small import SYSTEMS, config_of
from vgen_fast import animate, conditions, maximize, sample
from vgen_fast.models import stgan
from vgen_fast.nets import trained
from vgen_fast.nets.trained import Facts, Trained
from vgen_fast.systems import build
from vgen_fast.train import classifier
from vgen_fast.train.classifier import PLANS, Fit

META = torch.device("meta")


@pytest.fixture(autouse=True)
def brought_back(monkeypatch):
    """What comes back from the meta device is zeros; autocast and random seeds have no part in it."""
    cpu = torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda t: torch.zeros(t.shape, dtype=t.dtype) if t.is_meta else cpu(t))
    monkeypatch.setattr(torch, "autocast", lambda *given, **more: nullcontext())


@pytest.mark.parametrize("name", list(SYSTEMS))
def test_videos_are_made_where_the_generator_is(name):
    config = config_of(name)
    system = build(config)
    system.generator.eval()
    labels = torch.zeros(2, len(config.system.classes), dtype=torch.long) if config.system.classes else None
    inputs = sample.inputs_of(system, config, [0, 1], labels)
    sample.placed(system, META)
    frames = sample.videos(system, config, inputs, config.clips)
    assert frames.shape == (2, *config.system.sizes[-1], 3)
    if system.rollout:
        first = next(animate.rollout(system, config, inputs))
        assert first.is_meta


def facts(kind):
    return Facts(kind, (2, 32, 32), "motion", ("up", "down"), "shapes", 0, 0)


@pytest.mark.parametrize("kind", ["small", "small-lrcn", "frames"])
def test_classifiers_learn_and_answer_where_they_are(kind):
    network = Trained(facts(kind), trained.network(facts(kind)), "").to(META)
    fit = Fit(network, PLANS["own"], 0)
    clips = lambda rows, size: (torch.zeros(len(rows), 3, *size, dtype=torch.uint8), torch.zeros(len(rows), 1).long())  # noqa: E731
    assert fit.device == META
    video, labels = clips(torch.arange(4), (2, 32, 32))
    loss = torch.nn.functional.cross_entropy(network(video.to(fit.device)), labels[:, 0].to(fit.device))
    loss.backward()
    assert {p.grad.device for p in network.parameters() if p.grad is not None} == {META}
    found, _ = classifier.answers(network, clips, 4, 0)
    assert found.shape == (4, 2)


@pytest.mark.parametrize("kind", ["small", "small-lrcn", "frames"])
@pytest.mark.parametrize("recompute", [False, True])
def test_codes_climb_where_the_generator_is(kind, recompute, tmp_path):
    torch.save(trained.network(facts(kind)).state_dict(), tmp_path / trained.WEIGHTS)
    (tmp_path / trained.FACTS).write_bytes(trained.facts_json(facts(kind)))
    leader = conditions.leader_of(str(tmp_path))
    leader.network.to(META)
    cfg = SYSTEMS["stgan"]
    generator = stgan.Generator(cfg).to(META).requires_grad_(False)
    codes, classes = torch.zeros(2, 2, cfg.codes, device=META), torch.zeros(2, dtype=torch.long, device=META)
    seen, gradient = maximize.ascent(
        lambda h: generator.whole(h), lambda clip: leader.condition(clip, recompute), codes, classes, "ppgn"
    )
    assert seen.clip.is_meta
    assert gradient.shape == codes.shape
