"""Bad steps: single ones are left out, ten in a row go back to a checkpoint, and faults that stay end the run."""

import pytest

from vgen_fast.data.journal import whole_lines
from vgen_fast.train import divergence
from vgen_fast.train import run as runs
from vgen_fast.train.distributed import Ranks
from vgen_fast.train.folder import Folder
from vgen_fast.train.run import Intervals, Run

from .tiny import bits, make


@pytest.fixture
def go(tmp_path, monkeypatch):
    """Runs 320 clips, in steps of 8 that find a bad gradient where `bad(clips seen, step)` says so, and whose
    gradients look long, though the networks are well, where `wild` does."""

    def start(bad, clips=320, wild=lambda clips, step: False, go_back=True):
        real, steps = runs.step, iter(range(10**6))

        def step(state, *arguments):
            critic = state.system.critics[0].module
            critic.requires_grad_(True)
            now = (state.clips_seen, next(steps))
            poison, factor = bad(*now), 1e6 if wild(*now) else 1.0
            hook = critic.blocks[1][0].weight.register_hook(lambda g: g * float("nan")) if poison else None
            try:
                losses = real(state, *arguments)
                return losses | {"video/gradient": losses["video/gradient"] * factor}
            finally:
                if hook:
                    hook.remove()

        monkeypatch.setattr(runs, "step", step)

        def build():
            state, training = make("vanilla")
            return state.system, training

        from vgen_fast.data.synthetic import MovingShapes

        folder = Folder(tmp_path / "run")
        (folder.path / "config.yaml").write_text("recipe: tiny\n")
        intervals = Intervals(tick=8, samples=0, checkpoint=40, keep=3, judged=0)
        batches = MovingShapes((8, 16, 16), 3)
        it = Run(build, batches, folder, folder.path, Ranks(), clips, intervals, {}, (8, 3, 4), pytest.fail, go_back)
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
