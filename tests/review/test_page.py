"""The page in a real browser: keys, clicks, undo, reload, and names that would be code."""

import json
import subprocess
import sys
import time

import pytest

from vgen_fast.data.cache import Cache
from vgen_fast.data.journal import whole_lines

from . import browser as chromium
from .served import cache, served

pytestmark = pytest.mark.skipif(chromium.CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
pytest.importorskip("uvicorn", reason="the review screen needs its extra")

PRESSED = (
    "[...document.querySelectorAll('.cell')].flatMap((c, i) => c.getAttribute('aria-pressed') === 'true' ? [i] : [])"
)
PLAYING = "document.querySelector('video').readyState >= 3 && document.querySelectorAll('.cell').length"


@pytest.fixture(scope="module")
def page():
    with chromium.browser() as found:
        yield found


def place(page) -> str:
    return page.value("document.querySelector('#place').textContent")


def choose(page, name: str, value: str) -> None:
    change = f"s.value = '{value}'; s.dispatchEvent(new Event('change'))"
    page.value(f"(s => {{ {change}; }})(document.querySelector('{name}'))")


def counts(page) -> str:
    return page.value("document.querySelector('#counts').textContent")


def test_a_review_by_keys_and_clicks(tmp_path, page):
    with served(cache(tmp_path / "a.vgc", 60)) as server:
        page.open(server.url)
        assert page.wait(PLAYING) == 25
        assert (counts(page), place(page)) == ("0 of 60 seen, 0 rejected", "page 1 of 3")
        page.press("q")  # the first of the second row
        page.press("3")
        page.press("3")  # and back
        page.click(".cell:nth-child(25)")
        assert page.value(PRESSED) == [5, 24]
        page.press("Enter")
        page.wait("document.querySelector('#place').textContent === 'page 2 of 3'")
        assert counts(page) == "25 of 60 seen, 2 rejected"
        assert page.value(PRESSED) == []
        page.press("i")
        assert len(page.value(PRESSED)) == 25
        page.press("i")
        page.press("1")
        page.open(f"http://127.0.0.1:{server.port}/")  # a reload: what is marked and not yet sent is still there
        page.wait("document.querySelector('#place').textContent === 'page 1 of 2'")  # of those that are undecided
        assert counts(page) == "25 of 60 seen, 2 rejected"
        page.wait(PLAYING)
        page.press("Enter")
        page.wait("document.querySelector('#place').textContent === 'page 2 of 2'")
        assert page.wait(PLAYING) == 10
        page.press("Enter")
        page.wait("document.querySelector('#note').textContent.includes('last clips')")
        assert counts(page).startswith("60 of 60 seen")
        page.press("u")
        page.wait("document.querySelector('#place').textContent === 'page 2 of 2'")
        assert counts(page).startswith("50 of 60 seen")
        page.press("Backspace")
        page.wait("document.querySelector('#place').textContent === 'page 1 of 2'")
        page.press("u")  # a page that this order does not have: the order is made anew
        page.wait("document.querySelector('#place').textContent === 'page 1 of 3'")
        assert counts(page) == "0 of 60 seen, 0 rejected"
        page.press("u")
        page.wait("document.querySelector('#wrong').textContent === 'there is nothing to undo'")
        assert page.said == []
    lines = whole_lines(tmp_path / "a.decisions.jsonl")
    assert [line["id"] for line in lines[:25] if line["decision"] == "reject"] == ["clip 0005", "clip 0024"]


def test_marks_survive_a_reload(tmp_path, page):
    with served(cache(tmp_path / "a.vgc", 25)) as server:
        page.open(server.url)
        page.wait(PLAYING)
        page.press("w")
        page.call("Page.reload")
        page.wait(f"({PLAYING}) && {PRESSED}.length")
        assert page.value(PRESSED) == [6]


def test_marks_survive_a_reload_of_a_later_page(tmp_path, page):
    """Of what is undecided it is the first page then."""
    with served(cache(tmp_path / "a.vgc", 60)) as server:
        page.open(server.url)
        page.wait(PLAYING)
        page.press("Enter")
        page.wait("document.querySelector('#place').textContent === 'page 2 of 3'")
        page.press("w")
        page.call("Page.reload")
        page.wait("document.querySelector('#place')?.textContent === 'page 1 of 2'")
        page.wait(f"({PLAYING}) && {PRESSED}.length")
        assert page.value(PRESSED) == [6]
        page.press("Enter")
        page.wait("document.querySelector('#place').textContent === 'page 2 of 2'")
        assert page.value("sessionStorage.length") == 0
    (rejected,) = [x for x in whole_lines(tmp_path / "a.decisions.jsonl") if x["decision"] == "reject"]
    assert rejected["id"] == "clip 0031"


def test_choices(tmp_path, page):
    with served(cache(tmp_path / "a.vgc", 60)) as server:
        page.open(server.url)
        page.wait(PLAYING)
        sorts = page.value("[...document.querySelector('#sort').options].map(o => o.value)")
        assert sorts == ["built", "random", "frames", "face", "motion"]
        choose(page, "#sort", "face")
        page.wait("document.querySelectorAll('.cell')[1]?.title.startsWith('clip 0003')")
        choose(page, "#label", "odd")
        page.wait("document.querySelector('#place').textContent === 'page 1 of 2'")
        assert "odd" in page.value("document.querySelector('.cell').title")
        choose(page, "#show", "rejected")
        page.wait("document.querySelector('#note').textContent.startsWith('There is nothing to show')")


def test_a_server_that_is_gone_is_told(tmp_path, page):
    with served(cache(tmp_path / "a.vgc", 30)) as server:
        page.open(server.url)
        page.wait(PLAYING)
        page.press("1")
    page.press("Enter")
    page.wait("document.querySelector('#wrong').textContent.startsWith('the server does not answer')")
    assert page.value(PRESSED) == [0]
    assert counts(page).startswith("0 of 30")


HOSTILE = [
    "<script>alert(1)</script>", "<img src=x onerror=alert(2)>", "\"><svg onload=alert(3)>", "javascript:alert(4)",
    "'};alert(5);//", "</script><script>alert(6)</script>", "\u202egpj.exe", "a\udcff\udcfeb", "{{7*7}}", "\n\r\t",
    "http://evil.com/a.png", "${alert(7)}", "&lt;b&gt;", "\u0000zero",
]  # fmt: skip


def test_names_are_never_code(tmp_path, page):
    page.requests.clear(), page.alerts.clear(), page.said.clear()
    folder = cache(tmp_path / "a.vgc", len(HOSTILE), name=lambda i: HOSTILE[i])
    with served(folder) as server:
        page.open(server.url)
        page.wait(PLAYING)
        page.press("n")
        time.sleep(0.3)
        shown = page.value("[...document.querySelectorAll('.text')].map(t => t.textContent)")
        assert len(shown) == len(HOSTILE)
        assert shown[0].startswith("<script>alert(1)</script>")
        assert page.value("document.querySelectorAll('.cell *:not(span)').length") == 0
        page.press("1")
        page.press("Enter")
        page.wait("document.querySelector('#note').textContent.includes('last clips')")
        assert page.alerts == []
        foreign = [url for url in page.requests if not url.startswith(f"http://127.0.0.1:{server.port}/")]
        assert foreign == []
        assert page.said == []
    lines = whole_lines(tmp_path / "a.decisions.jsonl")
    assert [line["decision"] for line in lines] == ["reject"] + ["keep"] * (len(HOSTILE) - 1)


def test_another_site_cannot_frame_it_or_decide(tmp_path, page):
    """A page on another port, as another site would, with the cookie in the browser."""
    with served(cache(tmp_path / "a.vgc", 5)) as server:
        page.open(server.url)
        page.wait(PLAYING)
        ours = f"http://127.0.0.1:{server.port}"
        field = """<input name='{"0":"reject","' value='1":"keep"}'>"""
        form = f"<form method=post id=f enctype=text/plain action={ours}/decide>{field}</form>"
        (tmp_path / "evil").mkdir()
        (tmp_path / "evil/index.html").write_text(f'<iframe src="{ours}/"></iframe>{form}')
        command = [sys.executable, "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", tmp_path / "evil"]
        evil = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={"PYTHONUNBUFFERED": "1"})
        try:
            port = evil.stdout.readline().split("port ")[1].split()[0]
            page.open(f"http://127.0.0.1:{port}/index.html")
            page.wait("document.readyState === 'complete' && document.querySelector('#f') !== null")
            post = "{method: 'POST', credentials: 'include', mode: 'no-cors', body: JSON.stringify({0: 'reject'})}"
            assert page.value(f"fetch('{ours}/decide', {post}).then(a => a.type, e => 'failed')") in (
                "opaque",
                "failed",
            )
            page.value("document.querySelector('#f').submit()")
            time.sleep(0.5)
        finally:
            evil.kill()
            evil.wait()
        assert (tmp_path / "a.decisions.jsonl").read_bytes() == b""
        assert any("frame" in text.lower() for text in page.said)


def test_what_was_rejected_is_left_out_of_the_next_build(tmp_path):
    from vgen_fast.data.__main__ import main

    folder = cache(tmp_path / "a.vgc", 30)
    with served(folder) as server:
        server.decide({str(i): "reject" if i in (3, 17) else "keep" for i in range(30)})
    out = tmp_path / "good.vgc"
    command = ["build", str(out), "--layout", "cache", "--root", str(folder), "--storage", "raw"]
    assert main([*command, "--decisions", str(tmp_path / "a.decisions.jsonl")]) == 0
    old, new = Cache(folder), Cache(out)
    kept = [i for i in range(30) if i not in (3, 17)]
    for name in ("id", "label", "scores", "fps", "sha256"):
        assert new.column(name) == [old.column(name)[i] for i in kept]
    assert [row.split(",")[:2] for row in (out / "rejected.csv").read_text().splitlines()[1:]] == [
        ["clip 0003", "reviewed"],
        ["clip 0017", "reviewed"],
    ]
    assert "decisions" in json.loads((out / "build.json").read_text())["recipe"]
