"""Bad steps: single ones are left out, ten in a row go back to a checkpoint, and faults that stay end the run."""

import pytest
import torch

from tests.models.small import begun, config_of
from vgen_fast.data.journal import whole_lines
from vgen_fast.data.synthetic import MovingShapes
from vgen_fast.train import checkpoint, divergence
from vgen_fast.train import run as runs
from vgen_fast.train.distributed import Ranks
from vgen_fast.train.folder import Folder
from vgen_fast.train.run import Intervals, Run

from .tiny import bits, make


@pytest.fixture
def go(tmp_path, monkeypatch):
    """Runs 320 clips, in steps of 8 that find a bad gradient where `bad(clips seen, step)` says so, and whose
    gradients look long, though the networks are well, where `wild` does."""

    def start(bad, clips=320, wild=lambda clips, step: False, go_back=True, after=lambda state: None, **how):
        real, steps = runs.step, iter(range(10**6))

        def step(state, *arguments):
            critic = state.system.critics[0].module
            critic.requires_grad_(True)
            now = (state.clips_seen, next(steps))
            poison, factor = bad(*now), 1e6 if wild(*now) else 1.0
            hook = critic.blocks[1][0].weight.register_hook(lambda g: g * float("nan")) if poison else None
            try:
                losses = real(state, *arguments)
                after(state)
                return losses | {"video/gradient": losses["video/gradient"] * factor}
            finally:
                if hook:
                    hook.remove()

        monkeypatch.setattr(runs, "step", step)

        def build():
            state, training = make("vanilla")
            return state.system, training

        folder = Folder(tmp_path / "run")
        (folder.path / "config.yaml").write_text("recipe: tiny\n")
        intervals = Intervals(tick=8, samples=0, checkpoint=40, keep=3, judged=how.pop("judged", 0))
        batches, judge = (
            MovingShapes((8, 16, 16), 3),
            how.pop("judge", lambda it, pairs: pytest.fail("not to be judged")),
        )
        it = Run(build, batches, folder, folder.path, Ranks(), clips, intervals, {}, (8, 3, 4),
                 lambda pairs: judge(it, pairs), go_back)  # fmt: skip
        code = it.go()
        folder.close()
        return code, whole_lines(folder.path / "events.jsonl"), it

    return start


def named(events, name):
    return [event for event in events if event["event"] == name]


def test_bad_steps_between_good_ones_are_counted_and_the_run_goes_on(go):
    code, events, it = go(lambda clips, step: step % 2 == 1)
    assert code == runs.DONE
    assert len(named(events, "nonfinite")) == it.state.events["video/nonfinite"] == 20
    assert named(events, "nonfinite")[0]["site"] == "video"
    assert not named(events, "rollback")
    rows = whole_lines(it.path / "stats.jsonl")
    assert [bool(row["losses"]) for row in rows] == [True, False] * 20  # a tick a step: nothing of a bad one is told
    assert "NaN" not in (it.path / "stats.jsonl").read_text()


def test_ten_in_a_row_go_back_to_the_newest_checkpoint_and_on_with_other_clips(go):
    code, events, it = go(lambda clips, step: 20 <= step < 30)
    assert code == runs.DONE
    (back,) = named(events, "rollback")
    assert back["clips_seen"] in (200, 240)
    assert it.state.clips_seen == 320
    assert it.state.clips_drawn > it.state.clips_seen
    assert all(value.isfinite().all() for value in bits(it.state).values())


def test_a_fault_that_stays_ends_the_run_after_three_rollbacks(go):
    code, events, _ = go(lambda clips, step: clips >= 80)
    assert code == runs.NUMERICAL == 17
    assert len(named(events, "rollback")) == runs.ROLLBACKS == 3
    assert named(events, "exit")[-1]["code"] == 17


@pytest.fixture
def soon(monkeypatch):
    """Divergence is seen within fewer steps."""
    for name, steps in (("FAST", 3), ("WARM", 10), ("HOLD", 3)):
        monkeypatch.setattr(divergence, name, steps)
    monkeypatch.setattr(runs, "SINCE", 6)


def test_a_run_that_diverges_goes_back_past_what_was_saved_since(go, soon):
    code, events, it = go(lambda clips, step: False, wild=lambda clips, step: 20 <= step < 23)
    assert code == runs.DONE
    (seen,), (back,) = named(events, "diverged"), named(events, "rollback")
    assert seen["signals"] == ["video/gradient"]
    assert seen["clips_seen"] == 23 * 8
    assert back["clips_seen"] == max(c for c in range(0, 320, 40) if c <= seen["clips_seen"] - 6 * 8)
    aside = sorted(path.name for path in (it.path / "checkpoints").glob("*.diverged"))
    assert aside == [f"{c:010d}.diverged" for c in range(back["clips_seen"] + 40, seen["clips_seen"], 40)] != []
    assert it.state.clips_drawn > it.state.clips_seen == 320
    committed = [event["clips_seen"] for event in named(events, "checkpoint_committed")]
    assert committed.count(int(aside[0][:10])) == 2  # the place was saved again, by the way that did not diverge


def test_a_run_that_diverges_again_and_again_ends(go, soon):
    code, events, _ = go(lambda clips, step: False, wild=lambda clips, step: clips >= 160)
    assert code == runs.NUMERICAL
    assert len(named(events, "rollback")) == runs.ROLLBACKS


def test_divergence_can_be_an_event_and_no_more(go, soon):
    code, events, it = go(lambda clips, step: False, wild=lambda clips, step: step >= 20, go_back=False)
    assert code == runs.DONE
    assert len(named(events, "diverged")) == 1
    assert not named(events, "rollback")
    assert it.state.clips_drawn == it.state.clips_seen == 320


def test_rollbacks_long_past_are_forgotten(go, monkeypatch):
    """Four faults, each far from the others, counted in steps."""
    monkeypatch.setattr(runs, "WITHIN", 12)
    code, events, _ = go(lambda clips, step: step % 25 >= 15 and step < 100, clips=720)
    assert code == runs.DONE
    assert len(named(events, "rollback")) == 4


def test_the_end_of_a_run_that_fails_is_told(go, capsys):
    go(lambda clips, step: clips >= 80)
    assert "went back 3 times within 1000 steps, and the numbers fail again after " in capsys.readouterr().err


@pytest.mark.parametrize("stays", [False, True])
def test_weights_that_are_no_numbers_are_never_saved_and_the_run_goes_back(go, stays):
    """Finite gradients, a step that makes none of them: as of a rate far too high."""
    done = []

    def after(state):
        if state.clips_seen == 120 and (stays or not done):
            done.append(state.clips_seen)
            next(state.system.generator.parameters()).data[0] = torch.nan

    code, events, it = go(lambda clips, step: False, after=after)
    assert code == (runs.NUMERICAL if stays else runs.DONE)
    assert named(events, "nonfinite")[0]["site"].startswith("generator.safetensors")
    assert len(named(events, "rollback")) == (3 if stays else 1)
    for found in checkpoint.candidates(it.path / "checkpoints", it.run, pytest.fail):
        assert all(t.isfinite().all() for t in checkpoint.tensors(found, "generator.safetensors").values())


def test_a_signal_while_a_checkpoint_is_judged_saves_it_unjudged(go):
    """Judging may take longer than a scheduler waits."""
    seen = []

    def judge(it, pairs):
        for pair in pairs:
            seen.append(pair)
            if it.state.clips_seen == 80:
                it.signals.number = 15
        return 0.5

    code, events, _ = go(lambda clips, step: False, judge=judge, judged=24)
    assert code == 128 + 15
    saved = named(events, "checkpoint_committed")
    assert {event["clips_seen"]: "distance" in event for event in saved} == {40: True, 80: False}
    assert len(seen) == 3 + 1  # of 24 clips 8 at a time, and no more after the signal


@pytest.mark.parametrize("name", ["vgan", "tgan", "mocogan", "dvdgan-prediction"])
def test_a_clip_that_is_no_number_leaves_no_trace_in_running_statistics(name):
    config = config_of(name)
    state, training = begun(config)
    clips, calls = MovingShapes(config.system.sizes[-1], 3), []

    def batches(rows, size):
        video, labels = clips(rows, size)
        calls.append(rows)
        return video.float().where(torch.tensor(len(calls) != 2), torch.nan), labels

    runs.step(state, training, batches, lambda gradients: None)
    before = {key: value.clone() for key, value in state.system.generator.named_buffers()}
    runs.step(state, training, batches, lambda gradients: None)
    assert any(key.endswith("/nonfinite") for key in state.events)
    buffers = [b for m in (state.average, *(c.module for c in state.system.critics)) for b in m.buffers()]
    assert all(b.isfinite().all() for b in (*buffers, *state.system.generator.buffers()))
    if name == "dvdgan-prediction":  # whose generator saw the clip
        assert all(torch.equal(value, before[key]) for key, value in state.system.generator.named_buffers())


def test_weight_clipping_waits_for_a_first_good_step():
    state, training = make("wgan_clip")
    shapes = MovingShapes((8, 16, 16), 3)
    broken = lambda rows, size: (shapes(rows, size)[0].float() * torch.nan, shapes(rows, size)[1])  # noqa: E731
    runs.step(state, training, broken, lambda gradients: None)
    assert state.events["video/nonfinite"] == 1
