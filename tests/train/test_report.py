"""What a person sees: labels of the grid, the progress line, the page."""

import torch

from vgen_fast.train import report
from vgen_fast.train.folder import Folder

from .tiny import make


def test_the_labels_of_a_grid_are_spread_over_all_combinations():
    state, _ = make()
    labels = report.fixed_inputs(state.system, (8, 3, 4), 0).condition
    assert labels.shape == (24, 3)
    assert len({tuple(row) for row in labels.tolist()}) == 24
    for column, count in enumerate((8, 3, 4)):
        found = torch.bincount(labels[:, column], minlength=count)
        assert found.min() >= 24 // count - 1
        assert found.max() <= 24 // count + 2
    assert report.fixed_inputs(state.system, (), 0).condition is None
    one = report.fixed_inputs(state.system, (2,), 0).condition
    assert torch.bincount(one[:, 0]).tolist() == [12, 12]


def test_the_progress_line_says_what_is_left_by_the_work_that_is_left(monkeypatch):
    clock = iter([0.0, 10.0])
    monkeypatch.setattr(report.time, "monotonic", lambda: next(clock))
    progress = report.Progress(100, 0, lambda clips: clips if clips <= 50 else 50 + 9 * (clips - 50))
    progress.update(50, (8, 16, 16), report.Stage(1, 0.25), {"video/loss": 1.5, "video/real": 2.0}, tick=False)
    line = progress.line(50, (8, 16, 16), report.Stage(1, 0.25), {"video/loss": 1.5, "video/real": 2.0})
    assert "50%" in line
    assert "1m30s left" in line
    assert "5.0 clips/s" in line
    assert "8x16x16 fading in 25%" in line
    assert "video/loss 1.5" in line


def test_the_page_shows_curves_and_events_and_escapes_what_it_shows(tmp_path):
    folder = Folder(tmp_path / "<b>run")
    for clips in (8, 16):
        folder.stats({"clips_seen": clips, "losses": {"a<b": 1.0 / clips}, "clips_per_second": 3.0})
    folder.event("rollback<script>")
    (folder.path / "config.yaml").write_text("recipe: <i>\n")
    report.write_page(folder.path)
    folder.close()
    page = (folder.path / "report.html").read_text()
    assert page.count("<polyline") == 2
    for raw in ("<b>run", "a<b", "rollback<script>", "<i>"):
        assert raw not in page
    assert "rollback&lt;script&gt;" in page


def test_durations_are_short_texts():
    assert [report.duration(s) for s in (0.4, 59, 61, 3599, 3661)] == ["0s", "59s", "1m01s", "59m59s", "1h01m"]


def test_a_run_that_has_gone_back_tells_no_negative_speed(capsys):
    progress = report.Progress(100, 0, float)
    for clips_seen in (40, 48, 8):
        progress.update(clips_seen, (1, 2, 2), report.Stage(), {}, tick=True)
    assert "8%  ? left  8 of 100 clips  0.0 clips/s" in capsys.readouterr().out
