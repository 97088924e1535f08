"""Stands before the page: asks for the code, bounds what is sent, and tells browsers to load nothing from elsewhere."""

import asyncio
import hmac
import secrets
import time
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs

COOKIE = "colorize_code"
CODE_PATH = "/code"
STARTED = "/gradio_api/startup-events"  # what Gradio asks itself at its start; it tells and changes nothing
MOST_WRONG = 30  # wrong codes in a minute, from all together; then nobody can enter one for the rest of it
MOST_SENT = 1_000_000_000  # bytes of one upload, of several files
MOST_ASKED = 1_000_000  # bytes of any other request
# The page's own scripts are inline in part, and its components evaluate templates; all of it comes from this server.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; object-src 'none'"
)
_HEADERS = [
    (b"content-security-policy", POLICY.encode()),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
]
_REFUSED = ("/gradio_api/file=http", "/gradio_api/proxy=", "/proxy=", "/file=http")  # fetches from elsewhere
_FORM = """<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>Colour for gray photographs</title>
<style>body{font:1.2rem system-ui,sans-serif;max-width:22rem;margin:18vh auto;padding:0 1rem;text-align:center}
input,button{font:inherit;padding:.6rem;width:100%;box-sizing:border-box;margin:.4rem 0;border-radius:8px}
input{text-align:center;letter-spacing:.3em;border:1px solid #666}
button{border:0;background:#0f766e;color:#fff}</style>
<main><h1>Colour for gray photographs</h1><form method="get" action="/code">
<label for="code">The code, from the screen of whoever runs this page</label>
<input id="code" name="code" inputmode="numeric" autocomplete="off" autofocus required>
<button>Enter</button></form><p role="alert">MESSAGE</p></main></html>"""

Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class Guard:
    """An ASGI middleware: those who know the code come in, and what browsers get carries `POLICY`.

    Args:
        app: What it stands before.
        code: The code; "" lets everybody in.
    """

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]], code: str = ""):
        self._app, self._code = app, code
        self._token = secrets.token_urlsafe(32)  # what the cookie of those who entered the code holds
        self._wrong: deque[float] = deque()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request, or hands it on."""
        if scope["type"] != "http":
            if scope["type"] != "websocket":  # the server's start and end; the page uses no websockets
                await self._app(scope, receive, send)
            return
        path = scope["path"]
        headers = {name.lower(): value for name, value in scope["headers"]}
        if self._code and path == CODE_PATH:
            await self._enter(scope, send)
        elif self._code and path != STARTED and not self._known(headers.get(b"cookie", b"")):
            await _answer(send, 401, _FORM.replace("MESSAGE", ""))
        elif path.startswith(_REFUSED):
            await _answer(send, 403, "not here")
        elif _length(headers) > (MOST_SENT if path.endswith("/upload") else MOST_ASKED):
            await _answer(send, 413, "too much at once")
        elif b"transfer-encoding" in headers:  # of a length that is not told; no browser sends so
            await _answer(send, 411, "how much?")
        else:
            await self._app(scope, receive, _with_headers(send))

    def _known(self, cookies: bytes) -> bool:
        try:
            found = SimpleCookie(cookies.decode("latin-1")).get(COOKIE)
        except CookieError:
            return False
        return found is not None and hmac.compare_digest(found.value.encode(), self._token.encode())

    async def _enter(self, scope: Scope, send: Send) -> None:
        given = parse_qs(scope["query_string"].decode("latin-1")).get("code", [""])[0].strip()
        now = time.monotonic()
        while self._wrong and self._wrong[0] < now - 60:
            self._wrong.popleft()
        if len(self._wrong) >= MOST_WRONG:
            await _answer(send, 429, _FORM.replace("MESSAGE", "Too many wrong codes; try again in a minute."))
        elif hmac.compare_digest(given.encode(), self._code.encode()):
            cookie = f"{COOKIE}={self._token}; Path=/; HttpOnly; SameSite=Lax; Max-Age=86400"
            await _answer(send, 303, "", [(b"location", b"/"), (b"set-cookie", cookie.encode())])
        else:
            self._wrong.append(now)
            await asyncio.sleep(0.5)
            await _answer(send, 401, _FORM.replace("MESSAGE", "That is not the code." if given else ""))


def _length(headers: dict[bytes, bytes]) -> int:
    try:
        return int(headers.get(b"content-length", b"0"))
    except ValueError:
        return MOST_SENT + 1


def _with_headers(send: Send) -> Send:
    async def sending(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", []), *_HEADERS]
        await send(message)

    return sending


async def _answer(send: Send, status: int, body: str, headers: list[tuple[bytes, bytes]] | None = None) -> None:
    headers = [(b"content-type", b"text/html; charset=utf-8"), (b"cache-control", b"no-store"), *(headers or [])]
    await _with_headers(send)({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body.encode()})
