"""Real processes, really killed."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from vgen_fast.data import decode, pool, reader
from vgen_fast.data.decode import Rejected
from vgen_fast.data.resize import Fit

from .films import FILMS, Film, number


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("films")
    return [film.write(folder) for film in FILMS if film.name != "quarter.mp4"]


def test_a_reader_reads_what_this_process_reads(paths):
    fit = Fit(stretch=(40, 56), crop=(40, 52))
    with pool.Pool() as readers:
        for path in paths:
            film, wanted = readers.probe(path), [40, 3, 40, 99]
            with decode.opened(path) as file:
                here = decode.probe(file)
                assert reader.to_json(film) == reader.to_json(here)
                frames = decode.read(file, here, wanted)
            assert (readers.read(path, film, wanted, fit) == [fit(frame, film.aspect) for frame in frames]).all()
            assert readers.read(path, film, wanted).shape == (4, film.height, round(film.width * film.aspect), 3)


def test_rejections_cross_over(paths, tmp_path):
    (tmp_path / "text.mp4").write_text("no film")
    with pool.Pool() as readers:
        with pytest.raises(Rejected, match=r"^format: ") as caught:
            readers.probe(tmp_path / "text.mp4")
        assert caught.value.reason == "format"
        film = readers.probe(paths[0])
        with pytest.raises(Rejected, match=r"^truncated: "):
            readers.read(paths[0], film, [100])
        assert readers.replaced == 0


def epoch(readers, paths):
    films = {path: readers.probe(path) for path in paths}

    def clip(index):
        path = paths[index % len(paths)]
        return readers.read(path, films[path], index % 70 + np.arange(16)).tobytes()

    with ThreadPoolExecutor(2) as threads:
        return list(threads.map(clip, range(200)))


@pytest.mark.slow
def test_twenty_murdered_readers_change_nothing(paths, monkeypatch):
    """Each of the ways to die, at once or in the middle of every tenth request; a request is not hit twice."""
    ways, ask, calls = [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT, signal.SIGTERM], pool.Reader.ask, []

    def murdered(self, request, *rest):
        if request["job"] == "read" and "again" not in request:
            calls.append(request)
            request["again"] = True
            if len(calls) % 10 == 5:
                number = len(calls) // 10
                if number % 3 == 0:
                    os.kill(self.process.pid, ways[number % 4])
                else:
                    threading.Timer(0.001 * (number % 3), os.kill, (self.process.pid, ways[number % 4])).start()
        return ask(self, request, *rest)

    with pool.Pool(2) as readers:
        wanted = epoch(readers, paths)
        assert readers.replaced == 0
        monkeypatch.setattr(pool.Reader, "ask", murdered)
        assert epoch(readers, paths) == wanted
        assert readers.replaced == 20
        assert len(readers.readers) <= 2


def test_a_stopped_reader_is_replaced(paths):
    with pool.Pool(seconds=1) as readers:
        film = readers.probe(paths[0])
        (one,) = readers.readers
        os.kill(one.process.pid, signal.SIGSTOP)
        start = time.monotonic()
        assert [number(frame) for frame in readers.read(paths[0], film, [7])] == [7]
        assert time.monotonic() - start < 3
        assert one.process.returncode == -signal.SIGKILL


@pytest.mark.parametrize(
    ("how", "reason"), [(signal.SIGKILL, "kills"), (signal.SIGSTOP, "slow: took more than 0.5 seconds")]
)
def test_a_file_that_ends_two_readers_is_given_up(paths, monkeypatch, how, reason):
    ask = pool.Reader.ask
    monkeypatch.setattr(pool.Reader, "ask", lambda self, *rest: (os.kill(self.process.pid, how), ask(self, *rest))[1])
    with pool.Pool(seconds=0.5) as readers:
        with pytest.raises(Rejected, match=reason):
            readers.probe(paths[0])
        assert readers.replaced == 2
        monkeypatch.undo()
        assert len(readers.probe(paths[0])) == 100


def test_too_large_a_request_is_refused_by_the_memory_limit(tmp_path):
    """The weights of 2,000 pixels for 200,000 are 3.2 GB."""
    path = Film("large.avi", "mjpeg", num_frames=1, pixels="yuvj420p", height=2000, width=4000).write(tmp_path)
    with pool.Pool(seconds=30) as readers:
        film = readers.probe(path)
        with pytest.raises(Rejected, match="too large: reading takes more than 2048 MiB"):
            readers.read(path, film, [0], Fit(shorter=200_000, crop=(8, 8)))
        assert readers.replaced == 0
        assert len(readers.probe(path)) == 1


def test_no_reader_outlives_its_parent(paths):
    code = (
        "import os, sys, time; from vgen_fast.data.pool import Pool; readers = Pool(); readers.probe(sys.argv[1]);"
        "print(*(one.process.pid for one in readers.readers), flush=True); os.kill(os.getpid(), 9)"
    )
    run = subprocess.run([sys.executable, "-c", code, paths[0]], capture_output=True, text=True)
    assert run.returncode == -9
    deadline = time.monotonic() + 5
    while alive(int(run.stdout)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not alive(int(run.stdout))


def alive(process: int) -> bool:
    try:
        with open(f"/proc/{process}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


ATTEMPTS = {
    "reads a file": "open('/etc/passwd')",
    "writes a file": "open(sys.argv[1], 'w')",
    "lists a folder": "os.listdir('/')",
    "makes a folder": "os.mkdir(sys.argv[1])",
    "makes a socket": "socket.socket()",
    "makes a local socket": "socket.socket(socket.AF_UNIX)",
    "makes a process": "os.fork()",
    "starts a program": "os.posix_spawn('/bin/true', ['true'], {})",
    "becomes a program": "os.execv('/bin/true', ['true'])",
    "sends a signal": "os.kill(os.getppid(), 0)",
}


@pytest.mark.parametrize("what", ATTEMPTS)
@pytest.mark.parametrize("rung", ["both", "landlock", "seccomp"])
def test_a_process_in_the_sandbox_neither(tmp_path, what, rung):
    """The harness is proven by a process outside of the sandbox, which can do all of it."""
    if (rung == "landlock" and what.split()[-1] in ("socket", "process", "program", "signal")) or (
        rung == "seccomp" and what == "makes a folder"
    ):
        pytest.skip("left to the other rung")
    enter = {"both": "sandbox.enter(2 << 30)", "landlock": "sandbox.landlock()", "seccomp": "sandbox.seccomp()"}[rung]
    prepare = "import os, socket, sys; from vgen_fast.data import sandbox; sandbox.LIBC.prctl(38, 1, 0, 0, 0)"
    attempt = f"\ntry: {ATTEMPTS[what]}\nexcept PermissionError: sys.exit(5)"
    codes = [f"{prepare}; assert {enter}{attempt}", f"{prepare}{attempt}"]
    ends = [subprocess.run([sys.executable, "-c", code, tmp_path / "new"], capture_output=True) for code in codes]
    assert [end.returncode for end in ends] == [5, 0], ends[0].stderr


@pytest.mark.slow
def test_two_thousand_clips_leave_no_trace(paths):
    """Memory of the reader, descriptors and threads of both sides."""

    def traces(reader):
        with open(f"/proc/{reader.process.pid}/status") as status:
            (resident,) = (int(line.split()[1]) for line in status if line.startswith("VmRSS"))
        opened = [len(os.listdir(f"/proc/{process}/fd")) for process in (reader.process.pid, os.getpid())]
        return resident, *opened, threading.active_count()

    with pool.Pool() as readers:
        films = {path: readers.probe(path) for path in paths}
        for index in range(2000):
            path = paths[index % len(paths)]
            if index % 50 == 0:
                readers.probe(path)
            readers.read(path, films[path], index % 80 + np.arange(4))
            if index == 500:
                (reader,) = readers.readers
                before = traces(reader)
        after = traces(reader)
        assert after[0] - before[0] <= 5000  # kB, over 1,500 clips; a frame kept of each would be 14,000
        assert after[1:] == before[1:]
        assert readers.replaced == 0


@pytest.mark.parametrize(
    ("version", "good"),
    [
        *(("8.1.2", True), ("8.1.1", False), ("7.1.4", False), ("7.1.5-0+deb13u1", True), ("n8.0.3", True)),
        *(("8.0.2", False), ("8.2", True), ("9.0.1", True), ("6.1.9", False), ("7.0.9", False), ("N-120-gabc", False)),
    ],
)
def test_an_ffmpeg_with_known_holes_reads_only_what_is_trusted(paths, monkeypatch, version, good):
    monkeypatch.setattr(pool, "ffmpeg", version)
    if good:
        pool.Pool().close()
        return
    with pytest.raises(pool.Holes, match=r"FFmpeg .* is open to files made for it"):
        pool.Pool()
    with pool.Pool(trusted=True) as readers:
        assert len(readers.probe(paths[0]))
