"""The review screen's server against other hosts, other sites, and too much of everything."""

import io
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import av
import numpy as np
import pytest

from vgen_fast.data.cache import Cache, Clip, Writer
from vgen_fast.review.decisions import Decisions

pytest.importorskip("starlette", reason="the review screen needs its extra")
pytest.importorskip("uvicorn", reason="the review screen needs its extra")

from vgen_fast.review.mosaic import mosaic
from vgen_fast.review.server import part_of

from .served import cache, served


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("review")
    with served(cache(folder / "a.vgc", 60)) as found:
        found.file = folder / "a.decisions.jsonl"
        yield found


def lines(server) -> int:
    return len(server.file.read_bytes().splitlines())


def test_it_listens_on_the_loopback_address_alone(server):
    # The second field is the local address, the fourth the state (0A listens), the tenth the socket's inode.
    inodes = {os.readlink(f"/proc/{server.process.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{server.process.pid}/fd")}
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{server.process.pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
                found.append(fields[1])
    assert found == [f"0100007F:{server.port:04X}"]


HOSTS = [
    *("evil.com", "evil.com:{}", "localhost.evil.com:{}", "127.0.0.1.nip.io:{}", "127.1:{}", "0x7f000001:{}"),
    *("2130706433:{}", "[::ffff:127.0.0.1]:{}", "127.0.0.1", "localhost", "127.0.0.1:1", "localhost:80", "[::1]"),
    *("", ":{}", "user@127.0.0.1:{}", "127.0.0.1.:{}", "localhost.:{}", "LOCALHOST:{}", "127.0.0.1:{}@evil.com"),
    *("0.0.0.0:{}", "127.0.0.2:{}", "localhost:{} ", "localhost:{},evil.com", "127.0.0.1:0{}", "::1:{}"),
]


@pytest.mark.parametrize("host", HOSTS)
def test_no_other_host_gets_a_byte(server, host):
    wrong = host.format(server.port)
    for path in ("/", f"/?token={server.token}", "/order"):
        status, headers, content = server.ask("GET", path, headers={"Host": wrong})
        if wrong.strip() == f"localhost:{server.port}":  # blanks around a value are not part of it
            assert status == 200
            continue
        assert status in (400, 403)
        assert "set-cookie" not in {name.lower() for name in headers}
        assert b"clip" not in content


def test_the_three_hosts(server):
    for host in ("localhost", "127.0.0.1", "[::1]"):
        assert server.ask("GET", "/", headers={"Host": f"{host}:{server.port}"})[0] == 200


def test_no_host_two_hosts_and_a_whole_url(server):
    assert server.ask("GET", "/", headers={"Host": None})[0] in (400, 403)
    both = [f"127.0.0.1:{server.port}", "evil.com"]
    assert server.ask("GET", "/", headers={"Host": both})[0] in (400, 403)
    assert server.ask("GET", "http://evil.com/", headers={})[0] in (400, 403, 404)
    headers = {"Host": "evil.com", "X-Forwarded-Host": f"127.0.0.1:{server.port}"}
    assert server.ask("GET", "/", headers=headers)[0] == 403


def test_the_token_opens_it_and_nothing_else_does(server):
    for cookie in (None, "", f"vgen_review_{server.port}=", f"vgen_review_{server.port}={server.token[:-1]}", "a=b"):
        for path in ("/", "/order", "/cells/0/0", "/film/0/0", "/?token=", "/?token=wrong", "/no/such"):
            assert server.ask("GET", path, headers={"Cookie": cookie})[0] == 403
    status, headers, content = server.ask("GET", f"/?token={server.token}", headers={"Cookie": None})
    assert status == 200
    assert headers["set-cookie"] == f"{server.cookie}; HttpOnly; SameSite=Strict; Path=/"
    assert server.token.encode() not in content


def test_every_answer_says_what_a_browser_may_do_with_it(server):
    for path, cookie in (("/", server.cookie), ("/order", server.cookie), ("/no/such", server.cookie), ("/", "")):
        _, headers, _ = server.ask("GET", path, headers={"Cookie": cookie})
        assert headers["content-security-policy"].startswith("default-src 'self'; script-src 'sha256-")
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert not [name for name in headers if name.lower().startswith("access-control")]
        assert "server" not in headers


FOREIGN = {
    "a form": {"Content-Type": "application/x-www-form-urlencoded"},
    "JSON as text": {"Content-Type": "text/plain"},
    "another origin": {"Origin": "http://evil.com"},
    "another port": {"Origin": "http://127.0.0.1:1"},
    "origin null": {"Origin": "null"},
    "no origin": {"Origin": None},
    "no origin, cross-site": {"Origin": None, "Sec-Fetch-Site": "cross-site"},
    "another site": {"Sec-Fetch-Site": "cross-site"},
    "the same site": {"Sec-Fetch-Site": "same-site"},
    "no token": {"Cookie": None},
    "an old token": {"Cookie": "vgen_review_1=abc"},
    "another host": {"Host": "evil.com"},
}


@pytest.mark.parametrize("what", FOREIGN)
def test_nobody_else_changes_anything(server, what):
    before = lines(server)
    for path, body in (("/decide", b'{"0": "reject"}'), ("/undo", b"{}")):
        assert server.ask("POST", path, body, FOREIGN[what])[0] in (403, 415)
    assert lines(server) == before


def test_only_a_post_changes_anything(server):
    before = lines(server)
    for method in ("GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS"):
        for path in ("/decide", "/undo", "/decide?_method=POST"):
            assert server.ask(method, path, headers={"X-HTTP-Method-Override": "POST"})[0] == 405
    assert lines(server) == before


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b"{", b"null", b"{}", b'{"60": "keep"}', b'{"-1": "keep"}', b'{"0": "maybe"}', b'{"0": null}',
        b'{"x": "keep"}', b'{"0": ["keep"]}', '{"²": "keep"}'.encode(), b"[" * 60_000, b'{"999999999999999": "keep"}',
    ],
)  # fmt: skip
def test_what_is_no_decision_is_refused(server, body):
    before = lines(server)
    status, _, content = server.ask("POST", "/decide", body)
    assert status == 400
    assert json.loads(content)["error"]
    assert lines(server) == before


def test_decide_and_undo(server):
    before = server.get("/order?show=all")
    counts = server.decide({"3": "reject", "4": "keep"})
    assert (counts["kept"], counts["rejected"]) == (before["kept"] + 1, before["rejected"] + 1)
    assert 3 not in shown(server, "show=undecided")
    assert shown(server, "show=rejected") == [3]
    status, _, content = server.ask("POST", "/undo", b"{}")
    assert status == 200
    assert json.loads(content)["clips"] == [3, 4]
    assert shown(server, "show=rejected") == []


def shown(server, query) -> list[int]:
    order = server.get(f"/order?{query}")
    found = []
    for page in range(order["pages"]):
        found += [cell["clip"] for cell in server.get(f"/cells/{order['key']}/{page}")["cells"]]
    return found


def test_orders(server):
    motion = [(i * 37 % 101) / 101 for i in range(60)]
    assert shown(server, "show=all") == list(range(60))
    assert shown(server, "show=all&sort=motion") == sorted(range(60), key=motion.__getitem__)
    assert shown(server, "show=all&sort=motion&down=1")[0] == int(np.argmax(motion))
    down = shown(server, "show=all&sort=face&down=1")
    assert down[:20] == list(range(57, -1, -3))  # those without the score come last, in both directions
    assert shown(server, "show=all&sort=face")[:20] == list(range(0, 60, 3))
    assert shown(server, "show=all&label=odd") == list(range(1, 60, 2))
    chance = shown(server, "show=all&sort=random")
    assert sorted(chance) == list(range(60)) != chance
    assert chance == shown(server, "show=all&sort=random")
    for query in ("sort=nothing", "show=nothing", "label=nothing"):
        assert server.ask("GET", f"/order?{query}")[0] == 400
    for path in ("/cells/0123456789abcdef/0", f"/cells/{server.get('/order')['key']}/99", "/film/../../etc/passwd/0"):
        assert server.ask("GET", path)[0] == 404


def test_parts_of_a_film(server):
    key = server.get("/order?show=all")["key"]
    status, headers, film = server.ask("GET", f"/film/{key}/0")
    assert (status, headers["content-type"], headers["content-length"]) == (200, "video/mp4", str(len(film)))
    status, headers, content = server.ask("HEAD", f"/film/{key}/0")
    assert (status, headers["content-length"], content) == (200, str(len(film)), b"")
    rng = np.random.default_rng(0)
    for _ in range(1000):
        first = int(rng.integers(len(film)))
        last = int(rng.integers(first, len(film) + 9))
        found = part_of(film, f"bytes={first}-{last}")
        assert found.status_code == 206
        assert found.body == film[first : last + 1]
        assert found.headers["content-range"] == f"bytes {first}-{min(last, len(film) - 1)}/{len(film)}"
        assert found.headers["content-length"] == str(len(found.body))
    for asked, wanted in (("bytes=0-0", film[:1]), ("bytes=-7", film[-7:]), ("bytes=9-", film[9:])):
        status, headers, content = server.ask("GET", f"/film/{key}/0", headers={"Range": asked})
        assert (status, content, headers["content-length"]) == (206, wanted, str(len(wanted)))
    assert part_of(film, f"bytes=-{len(film) + 5}").body == film
    for asked in (f"bytes={len(film)}-", f"bytes={10**17}-", "bytes=-0"):
        found = part_of(film, asked)
        assert (found.status_code, found.headers["content-range"]) == (416, f"bytes */{len(film)}")
    began = time.process_time()
    many = "bytes=" + ",".join(f"{i}-" for i in range(100_000))
    for asked in (many, "bytes=5-2", "bytes=", "bytes=-", "bytes=a-b", "lines=1-2", "bytes=0-1,3-4", "bytes=٣-٤"):
        assert part_of(film, asked).status_code == 200
    assert time.process_time() - began < 0.05
    assert part_of(b"", "bytes=0-").status_code == 416


def test_a_large_body_and_large_headers_are_refused(server):
    before = resident(server)
    with socket.create_connection(("127.0.0.1", server.port)) as line:
        head = f"POST /decide HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nCookie: {server.cookie}\r\n"
        head += f"Origin: http://127.0.0.1:{server.port}\r\nContent-Type: application/json\r\n"
        line.sendall(f"{head}Content-Length: {1 << 30}\r\n\r\n".encode())
        sent = 0
        try:
            while sent < 64 << 20:
                sent += line.send(b"1" * (1 << 16))
        except OSError:  # it hangs up
            pass
        assert sent < 64 << 20
    status, _, _ = server.ask("GET", "/", headers={"X-Long": "a" * 65_000})
    assert 400 <= status < 500
    assert resident(server) - before < 64


def resident(server) -> float:
    """MiB."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def test_two_hundred_idle_connections_keep_nobody_waiting(server):
    before = resident(server)
    idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(200)]
    try:
        for i, line in enumerate(idle):
            if i % 2:
                line.sendall(b"GET / HTTP/1.1\r\nX-Drip: ")
        times = []
        for i in range(40):
            idle[2 * i + 1].send(b"a")
            began = time.perf_counter()
            assert server.ask("GET", "/order")[0] == 200
            times.append(time.perf_counter() - began)
        assert statistics.quantiles(times, n=20)[-1] < 0.2
        assert resident(server) - before < 64
    finally:
        for line in idle:
            line.close()


def test_a_hundred_thousand_clips(tmp_path):
    """The index is that of a real cache; the clips share the bytes of one."""
    folder = cache(tmp_path / "large.vgc", 1)
    index = json.loads((folder / "index.json").read_text())
    clips, count = index["clips"], 100_000
    index["clips"] = {name: values * count for name, values in clips.items()}
    index["clips"]["id"] = [f"clip {i:06}" for i in range(count)]
    (folder / "index.json").write_text(json.dumps(index))
    with served(folder) as found:
        began = time.perf_counter()
        order = found.get("/order?sort=motion")
        cells = found.get(f"/cells/{order['key']}/{order['first']}")
        assert time.perf_counter() - began < 2
        assert (order["pages"], len(cells["cells"])) == (4000, 25)


def test_the_end_of_a_long_clip_is_shown(tmp_path):
    """200 frames, of which the last one alone is white, beside a short clip that is played again."""
    long, short = np.zeros((200, 32, 32, 3), np.uint8), np.zeros((3, 32, 32, 3), np.uint8)
    long[-1] = short[1] = 255
    writer = Writer(tmp_path / "a.vgc", (32, 32), {})
    writer.add("a", [(Clip("long"), long), (Clip("short"), short)])
    writer.finish({}, {})
    content, bad = mosaic(Cache(tmp_path / "a.vgc"), [0, 1])
    with av.open(io.BytesIO(content)) as file:
        shown = np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])
    assert (shown[:, 16, 16, 0] > 128).nonzero()[0].tolist() == [63]
    assert (shown[:, 16, 50, 0] > 128).nonzero()[0].tolist() == list(range(1, 64, 3))
    assert bad == []


def test_clips_that_cannot_be_read_have_a_cell_all_the_same(tmp_path):
    folder = cache(tmp_path / "a.vgc", 25, storage="jpeg", size=(64, 64))
    shard = folder / "shard-00000.zip"
    content = bytearray(shard.read_bytes())
    at = content.find(b"000000003/00002.jpg") + 200  # into a picture of clip 3
    content[at : at + 400] = bytes(400)
    shard.write_bytes(content)
    film, bad = mosaic(Cache(folder), list(range(25)))
    assert bad == [3]
    assert film[4:8] == b"ftyp"


def test_a_clip_is_shown_where_it_belongs(tmp_path):
    folder = cache(tmp_path / "a.vgc", 27)
    content, _ = mosaic(Cache(folder), [26, 25, *range(10)])
    with av.open(io.BytesIO(content)) as file:
        frame = next(file.decode(video=0)).to_ndarray(format="rgb24")
    assert frame.shape[:2] == (34 * 3, 34 * 5)
    for place, clip in enumerate([26, 25, *range(10)]):
        y, x = place // 5 * 34, place % 5 * 34
        assert abs(int(frame[y + 24, x + 16, 0]) - clip * 251 // 27) < 6


def test_two_screens_and_a_port_that_is_taken(tmp_path):
    folder = cache(tmp_path / "a.vgc", 3)
    with served(folder) as found:
        command = [sys.executable, "-m", "vgen_fast", "review", str(folder)]
        for options, text in (
            (["--port", "0"], "another review screen writes to"),
            (["--port", str(found.port)], f"port {found.port}: Address already in use; --port 0 takes a free one"),
            (["--host", "0.0.0.0"], "there is no option --host"),
        ):
            answer = subprocess.run([*command, *options], capture_output=True, text=True)
            assert answer.returncode == 2
            assert text in answer.stderr


def test_kill_9_during_two_hundred_posts(tmp_path):
    folder = cache(tmp_path / "a.vgc", 400, frames=1)
    acknowledged = []
    with served(folder) as found:

        def post(start):
            for i in range(start, 400, 2):
                try:
                    found.decide({str(i): "reject"})
                except OSError:
                    return
                acknowledged.append(i)

        tabs = [threading.Thread(target=post, args=(start,)) for start in range(2)]
        for tab in tabs:
            tab.start()
        while len(acknowledged) < 200:
            time.sleep(0.001)
        os.kill(found.process.pid, signal.SIGKILL)
        for tab in tabs:
            tab.join()
    mine = Cache(folder)
    decisions = Decisions(tmp_path / "a.decisions.jsonl", mine.column("id"), mine.column("sha256"), "me")
    assert len(acknowledged) >= 200
    assert not [i for i in acknowledged if decisions.mine.get(i) != "reject"]
    with served(folder, "--out", str(tmp_path / "other.jsonl")) as found:
        assert found.get("/order")["rejected"] == 0
