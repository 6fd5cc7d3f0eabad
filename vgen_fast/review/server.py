"""The review screen's server: cells and films of 25 clips out, decisions in. For the browser of one person, on this
machine: it listens on the loopback address alone, answers to its own names alone, and only who has its token.

    GET  /?token=...                  gives the cookie that everything else needs
    GET  /                            the page
    GET  /order?sort=&down=&show=...  an order of the clips, kept until another is asked for: its key
    GET  /cells/KEY/PAGE              25 clips of it
    GET  /film/KEY/PAGE               the same, playing
    POST /decide {"clip": "reject"}   on the disk before the answer; /undo takes the last one back

No URL names a file: clips are numbers, and an order is a key of this process.
"""

import base64
import hashlib
import hmac
import json
import re
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..data.cache import Cache
from .decisions import Decisions
from .mosaic import SIDE, mosaic

PAGE = (Path(__file__).parent / "page.html").read_text()
CELLS = SIDE * SIDE
BODY_BYTES, HEADER_BYTES = 1 << 16, 1 << 14
FILMS, ORDERS = 8, 32  # that are kept
ENTER = '<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0; url=/"><title>review</title>'
SHOWN: dict[str, Callable[[str], bool]] = {
    "all": lambda decision: True,
    "undecided": lambda decision: decision == "undecided",
    "kept": lambda decision: decision == "keep",
    "rejected": lambda decision: decision == "reject",
}


class Refusal(Exception):
    """An answer that is not what was asked for."""

    def __init__(self, status: int, text: str):
        super().__init__(text)
        self.status, self.text = status, text


def digest_of(tag: str) -> str:
    """The source expression that lets a browser run the page's own script, or use its style, and no other."""
    (text,) = re.findall(f"<{tag}>(.*?)</{tag}>", PAGE, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


HEADERS = {
    "content-security-policy": f"default-src 'self'; script-src {digest_of('script')}; style-src {digest_of('style')}; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "x-content-type-options": "nosniff",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


class Guard:
    """What every request must have before anything looks at it: our name as its host, and the token.

    A page that an evil name leads to (DNS rebinding) sends that name as its host, and no origin with a GET: so the host
    decides. Whatever changes something must be a POST of JSON from our own page.
    """

    def __init__(self, app: ASGIApp, token: str, port: int):
        self.app, self.token = app, token
        self.hosts = {f"{name}:{port}" for name in ("localhost", "127.0.0.1", "[::1]")}
        self.cookie = f"vgen_review_{port}"  # cookies of a host are shared by its ports

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close", "code": 1008})

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        try:
            answer = self.check(Request(scope)) or self.app
        except Refusal as error:
            answer = PlainTextResponse(error.text + "\n", error.status)
        await answer(scope, receive, send_with_headers)

    def check(self, request: Request) -> Response | None:
        headers: Headers = request.headers
        hosts = headers.getlist("host")
        if len(hosts) != 1 or hosts[0] not in self.hosts or not request.scope["path"].startswith("/"):
            raise Refusal(403, "this is not the host that was asked for")
        if sum(len(name) + len(value) for name, value in headers.raw) > HEADER_BYTES:
            raise Refusal(431, f"more than {HEADER_BYTES} bytes of headers")
        if request.method not in ("GET", "HEAD", "POST"):
            raise Refusal(405, "GET, HEAD and POST are all there is")
        if request.url.path == "/" and request.method == "GET" and self.right(request.query_params.get("token")):
            cookie = f"{self.cookie}={self.token}; HttpOnly; SameSite=Strict; Path=/"
            return HTMLResponse(ENTER, headers={"set-cookie": cookie})  # a redirect from afar would lose the cookie
        if not self.right(request.cookies.get(self.cookie)):
            raise Refusal(403, "open the address with the token that the command line shows")
        if request.method == "POST":
            if headers.get("content-type") != "application/json":
                raise Refusal(415, "decisions are JSON")
            site = headers.get("sec-fetch-site", "same-origin")
            if headers.getlist("origin") != [f"http://{hosts[0]}"] or site != "same-origin":
                raise Refusal(403, "decisions come from the page itself")
        return None

    def right(self, token: str | None) -> bool:
        return token is not None and hmac.compare_digest(token.encode(), self.token.encode())


class Film(NamedTuple):
    content: bytes
    unreadable: list[int]


class Screen:
    """What the page asks for."""

    def __init__(self, cache: Cache, decisions: Decisions, seed: int = 0):
        self.cache, self.decisions, self.seed = cache, decisions, seed
        scores = cache.column("scores")
        self.scores = {
            name: np.array([mine.get(name, np.nan) for mine in scores], dtype=np.float64)
            for name in sorted(set().union(*scores))
        }
        self.orders: OrderedDict[str, np.ndarray] = OrderedDict()
        self.films: OrderedDict[tuple[str, int], Film] = OrderedDict()
        self.deciding, self.rendering = threading.Lock(), threading.Lock()

    def app(self, token: str, port: int) -> ASGIApp:
        routes = [
            Route("/", self.page),
            Route("/favicon.ico", lambda request: Response(status_code=204)),
            Route("/order", self.order),
            Route("/cells/{key}/{page:int}", self.cells),
            Route("/film/{key}/{page:int}", self.film),
            Route("/decide", self.decide, methods=["POST"]),
            Route("/undo", self.undo, methods=["POST"]),
        ]

        def refused(request: Request, error: Refusal) -> Response:
            rest = {"connection": "close"} if error.status == 413 else None  # nobody reads what is still to come
            return JSONResponse({"error": error.text}, error.status, rest)

        return Guard(Starlette(routes=routes, exception_handlers={Refusal: refused}), token, port)

    async def page(self, request: Request) -> Response:
        return HTMLResponse(PAGE)

    # ------------------------------------------------------------------------------------------------------- looking

    async def order(self, request: Request) -> Response:
        asked = request.query_params
        sort, show = asked.get("sort", "built"), asked.get("show", "undecided")
        label, name = asked.get("label", ""), next(iter(self.cache.labels), None)
        count = len(self.cache)
        if sort == "built":
            ranks = np.arange(count)
        elif sort == "random":
            ranks = np.random.default_rng(self.seed).permutation(count)
        elif sort == "frames":
            ranks = self.cache.frames
        elif sort in self.scores:
            ranks = self.scores[sort]
        else:
            raise Refusal(400, f"there is no score {sort!r}")
        if show not in SHOWN:
            raise Refusal(400, f"there is nothing to show as {show!r}")
        found = np.argsort(-ranks if asked.get("down") else ranks, kind="stable")  # without a score: last
        mine = self.decisions.mine
        keep = np.array([SHOWN[show](mine.get(clip, "undecided")) for clip in found.tolist()], dtype=bool)
        if label:
            if name is None or label not in self.cache.labels[name]:
                raise Refusal(400, f"there is no label {label!r}")
            keep &= self.cache.label[found] == self.cache.labels[name].index(label)
        found = found[keep]
        key = hashlib.sha256(found.tobytes()).hexdigest()[:16]
        remember(self.orders, key, found, ORDERS)
        first = next((i for i, clip in enumerate(found.tolist()) if mine.get(clip, "undecided") == "undecided"), 0)
        return JSONResponse(
            {
                "key": key,
                "pages": -(-len(found) // CELLS),
                "first": first // CELLS,
                "sorts": ["built", "random", "frames", *self.scores],
                "labels": list(self.cache.labels[name]) if name else [],
                "name": self.cache.folder.name,
                "reviewer": self.decisions.reviewer,
                **self.counts(),
            }
        )

    def clips_of(self, request: Request) -> list[int]:
        found = self.orders.get(request.path_params["key"])
        page = request.path_params["page"]
        clips = [] if found is None else found[page * CELLS : (page + 1) * CELLS].tolist()
        if not clips:
            raise Refusal(404, "there is no such page any more")
        return clips

    async def cells(self, request: Request) -> Response:
        clips = self.clips_of(request)
        film = await run_in_threadpool(self.rendered, request, clips)
        name = next(iter(self.cache.labels), None)
        found = []
        for clip in clips:
            label = int(self.cache.label[clip])
            scores = {score: values[clip] for score, values in self.scores.items() if np.isfinite(values[clip])}
            found.append(
                {
                    "clip": clip,
                    "id": readable(self.decisions.ids[clip]),
                    "frames": int(self.cache.frames[clip]),
                    "label": self.cache.labels[name][label] if name and label >= 0 else None,
                    "scores": scores,
                    "decision": self.decisions.mine.get(clip, "undecided"),
                    "readable": clip not in film.unreadable,
                }
            )
        height, width = self.cache.size
        return JSONResponse({"cells": found, "rows": -(-len(clips) // SIDE), "aspect": width / height})

    async def film(self, request: Request) -> Response:
        content = (await run_in_threadpool(self.rendered, request, self.clips_of(request))).content
        return part_of(content, request.headers.get("range"))

    def rendered(self, request: Request, clips: list[int]) -> Film:
        place = request.path_params["key"], request.path_params["page"]
        with self.rendering:  # one after the other: the next page is asked for while this one is watched
            if place not in self.films:
                remember(self.films, place, Film(*mosaic(self.cache, clips)), FILMS)
            return self.films[place]

    # ------------------------------------------------------------------------------------------------------ deciding

    def counts(self) -> dict:
        agreement = {name: list(pair) for name, pair in self.decisions.agreement().items()}
        return {"count": len(self.cache), "agreement": agreement, **self.decisions.counts()}

    async def decide(self, request: Request) -> Response:
        asked = await body(request)
        decided = {}
        for clip, decision in asked.items():
            known = clip.isascii() and clip.isdigit() and len(clip) < 12 and int(clip) < len(self.cache)
            if not known or decision not in ("keep", "reject", "undecided"):
                raise Refusal(400, f"{clip[:20]!r}: {str(decision)[:20]!r} is no decision about a clip")
            decided[int(clip)] = decision
        if not decided:
            raise Refusal(400, "no clip is decided")
        await run_in_threadpool(self.write, lambda: self.decisions.add(decided))
        return JSONResponse(self.counts())

    async def undo(self, request: Request) -> Response:
        await body(request)
        before = await run_in_threadpool(self.write, self.decisions.undo)
        return JSONResponse({"clips": list(before), **self.counts()})

    def write(self, change: Callable):
        with self.deciding:
            try:
                return change()
            except OSError as error:
                raise Refusal(507, f"{self.decisions.path} cannot be written: {error.strerror}") from error


async def body(request: Request) -> dict:
    content = b""
    async for chunk in request.stream():
        content += chunk
        if len(content) > BODY_BYTES:
            raise Refusal(413, f"more than {BODY_BYTES} bytes")
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise Refusal(400, "this is no JSON") from error
    if not isinstance(found, dict):
        raise Refusal(400, "this is no JSON object")
    return found


def readable(name: str) -> str:
    """File names are bytes; those that are no text get a sign in their place."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def part_of(content: bytes, asked: str | None) -> Response:
    """The whole film, or the one range that is asked for; several ranges get the whole."""
    headers, length = {"accept-ranges": "bytes"}, len(content)
    found = re.fullmatch(r"bytes=([0-9]{0,18})-([0-9]{0,18})", asked) if asked and len(asked) < 60 else None
    if not found or not (found[1] or found[2]):
        return Response(content, media_type="video/mp4", headers=headers)
    first, last = (int(found[1]), int(found[2] or length - 1)) if found[1] else (length - int(found[2]), length - 1)
    first, last = max(0, first), min(last, length - 1)
    if found[1] and found[2] and int(found[2]) < int(found[1]):
        return Response(content, media_type="video/mp4", headers=headers)  # no valid range: as if there were none
    if first > last:
        return Response(status_code=416, headers={**headers, "content-range": f"bytes */{length}"})
    headers["content-range"] = f"bytes {first}-{last}/{length}"
    return Response(content[first : last + 1], 206, media_type="video/mp4", headers=headers)


def remember(store: OrderedDict, key: object, value: object, most: int) -> None:
    store[key] = value
    store.move_to_end(key)
    while len(store) > most:
        store.popitem(last=False)
