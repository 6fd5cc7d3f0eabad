"""A real browser: Debian's Chromium without a window, over its own debugging protocol on two pipes."""

import base64
import fcntl
import json
import os
import shutil
import subprocess
import tempfile
import time
from contextlib import contextmanager

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Page:
    """A tab. Whatever the page asks of the network, says or throws is kept."""

    def __init__(self, commands: int, answers: int):
        self.commands, self.answers = commands, os.fdopen(answers, "rb", buffering=0)
        self.number, self.rest, self.session = 0, b"", None
        self.requests, self.said, self.alerts = [], [], []
        (target,) = [t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page"][:1]
        found = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self.session = found["sessionId"]
        for area in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{area}.enable")

    def call(self, method: str, **params) -> dict:
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        message |= {"sessionId": self.session} if self.session else {}
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self.receive()
            if answer.get("id") == self.number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]

    def receive(self) -> dict:
        while b"\0" not in self.rest:
            part = self.answers.read(1 << 16)
            if not part:
                raise EOFError("the browser has gone")
            self.rest += part
        line, _, self.rest = self.rest.partition(b"\0")
        message = json.loads(line)
        params = message.get("params", {})
        if message.get("method") == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif message.get("method") == "Runtime.exceptionThrown":
            self.said.append(params["exceptionDetails"]["text"])
        elif message.get("method") in ("Log.entryAdded",):
            self.said.append(params["entry"]["text"])
        elif message.get("method") == "Page.javascriptDialogOpening":
            self.alerts.append(params["message"])
        return message

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)

    def value(self, expression: str):
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise RuntimeError(f"{expression}: {found['exceptionDetails']}")
        return found["result"].get("value")

    def wait(self, expression: str, seconds: float = 20.0):
        """Until it is true; its value."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                if found := self.value(expression):
                    return found
            except RuntimeError:
                pass  # a page that is being left has no such things
            time.sleep(0.03)
        raise AssertionError(f"not within {seconds} s: {expression}\n{self.value('document.body.innerText')}")

    def press(self, key: str) -> None:
        text = "\r" if key == "Enter" else key if len(key) == 1 else ""
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, text=text if kind == "keyDown" else "")

    def click(self, selector: str) -> None:
        box = f"document.querySelector({json.dumps(selector)}).getBoundingClientRect()"
        x, y = self.value(f"(b => [b.x + b.width / 2, b.y + b.height / 2])({box})")
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def picture(self) -> bytes:
        """PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])


@contextmanager
def browser(width: int = 1280, height: int = 900):
    with tempfile.TemporaryDirectory() as home:
        their_in, our_out = os.pipe()
        our_in, their_out = os.pipe()
        options = [
            *("--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--no-first-run"),
            *(f"--user-data-dir={home}", f"--window-size={width},{height}", "--disable-background-networking"),
            *("--disable-dev-shm-usage", "--disable-component-update", "--disable-features=MediaRouter"),
        ]
        # It reads from descriptor 3 and writes to 4: ours must be others.
        inside = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (their_in, their_out)]
        command = ["bash", "-c", f'exec "$@" 3<&{inside[0]} 4>&{inside[1]}', "bash", CHROMIUM, *options, "about:blank"]
        process = subprocess.Popen(command, pass_fds=inside, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for end in (their_in, their_out, *inside):
            os.close(end)
        try:
            yield Page(our_out, our_in)
        finally:
            process.terminate()
            process.wait(timeout=20)
            os.close(our_out)
