"""A cache and the review screen over it, as the command line starts it."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from vgen_fast.data.cache import Clip, Writer


def cache(path: Path, count: int, size=(32, 32), frames=8, storage="raw", name="clip {:04}".format) -> Path:
    """Clips of one grey each, with two scores."""
    writer = Writer(path, size, {}, storage)
    for i in range(count):
        grey = np.full((frames, *size, 3), i * 251 // count, np.uint8)
        grey[:, : size[0] // 2, : size[1] * (i % 5 + 1) // 6] = 255
        scores = {"motion": (i * 37 % 101) / 101}
        scores |= {} if i % 3 else {"face": float(i)}
        writer.add(f"source {i}", [(Clip(name(i), 12.0, i % 2, scores=scores), grey)])
    writer.finish({"class": ("even", "odd")}, {"versions": {}})
    return path


class Server:
    def __init__(self, process: subprocess.Popen, port: int, token: str):
        self.process, self.port, self.token = process, port, token
        self.cookie = f"vgen_review_{port}={token}"
        self.url = f"http://127.0.0.1:{port}/?token={token}"

    def ask(self, method: str, path: str, body: bytes | None = None, headers: dict | None = None):
        """Status, headers and body; the right host, cookie and origin where nothing else is given."""
        given = {"Host": f"127.0.0.1:{self.port}", "Cookie": self.cookie, **(headers or {})}
        if body is not None:
            given = {"Content-Type": "application/json", "Origin": f"http://127.0.0.1:{self.port}", **given}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, value in given.items():
                for one in [value] if isinstance(value, str) else value or ():
                    connection.putheader(name, one)
            if body is not None:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            connection.close()

    def get(self, path: str) -> dict:
        status, _, content = self.ask("GET", path)
        assert status == 200, content
        return json.loads(content)

    def decide(self, decided: dict) -> dict:
        status, _, content = self.ask("POST", "/decide", json.dumps(decided).encode())
        assert status == 200, content
        return json.loads(content)


@contextmanager
def served(*arguments: str, cwd: Path | None = None):
    command = [sys.executable, "-m", "vgen_fast", "review", *map(str, arguments), "--port", "0"]
    root = Path(__file__).resolve().parent.parent.parent
    process = subprocess.Popen(
        command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )  # fmt: skip
    try:
        said = ""
        while not (found := re.search(r"http://127\.0\.0\.1:(\d+)/\?token=(\S+)", said)):
            line = process.stdout.readline()
            assert line, said + process.stderr.read()
            said += line
        yield Server(process, int(found[1]), found[2])
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise
