"""What stands before the page: driven as a server drives it, without one."""

import asyncio

import pytest

from colorize_utils.app import guard
from colorize_utils.app.guard import Guard


async def page(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"the page"})


def asked(app, path, query="", kind="http", **headers):
    """Status, headers and body of the answer to a request."""
    sent = []
    named = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": kind, "path": path, "query_string": query.encode(), "headers": named}

    async def send(message):
        sent.append(message)

    asyncio.run(app(scope, None, send))
    if not sent:
        return None
    return sent[0]["status"], dict(sent[0]["headers"]), b"".join(message.get("body", b"") for message in sent[1:])


@pytest.fixture(autouse=True)
def without_waiting(monkeypatch):
    async def at_once(_):
        pass

    monkeypatch.setattr(guard.asyncio, "sleep", at_once)


def test_without_a_code_everybody_comes_in_and_nothing_is_loaded_from_elsewhere():
    status, headers, body = asked(Guard(page), "/")
    assert (status, body) == (200, b"the page")
    policy = headers[b"content-security-policy"].decode()
    assert "http" not in policy and "*" not in policy and "default-src 'self'" in policy


def test_a_code_has_to_be_entered_once():
    app = Guard(page, "123456")
    for path in ("/", "/gradio_api/upload", "/config", "/codes", "/gradio_api/startup-events/x"):
        status, _, body = asked(app, path)
        assert status == 401 and b"<form" in body and b"the page" not in body
    assert asked(app, "/code", "code=654321")[0] == 401
    assert asked(app, "/code")[0] == 401
    status, headers, _ = asked(app, "/code", "code=123456")
    assert status == 303 and headers[b"location"] == b"/"
    cookie = headers[b"set-cookie"].decode()
    assert "HttpOnly" in cookie and "123456" not in cookie
    assert asked(app, "/", cookie=f"other=1; {cookie.partition(';')[0]}")[2] == b"the page"
    for wrong in ("colorize_code=", "colorize_code=x", '"', "colorize_code=\xe9"):
        assert asked(app, "/", cookie=wrong)[0] == 401


def test_another_servers_cookie_does_not_help():
    cookie = asked(Guard(page, "123456"), "/code", "code=123456")[1][b"set-cookie"].decode().partition(";")[0]
    assert asked(Guard(page, "123456"), "/", cookie=cookie)[0] == 401


def test_codes_cannot_be_tried_out(monkeypatch):
    app = Guard(page, "123456")
    statuses = [asked(app, "/code", f"code={number}")[0] for number in range(guard.MOST_WRONG + 1)]
    assert statuses == [401] * guard.MOST_WRONG + [429]
    assert asked(app, "/code", "code=123456")[0] == 429  # not even the right one tells
    clock = guard.time.monotonic() + 61
    monkeypatch.setattr(guard.time, "monotonic", lambda: clock)
    assert asked(app, "/code", "code=123456")[0] == 303


@pytest.mark.parametrize(
    "path", ["/gradio_api/file=http://10.0.0.1/", "/gradio_api/file=https://x", "/gradio_api/proxy=x", "/proxy=x"]
)
def test_nothing_is_fetched_for_a_visitor(path):
    assert asked(Guard(page), path)[0] == 403


def test_what_is_sent_is_bounded():
    app = Guard(page)
    much = str(guard.MOST_ASKED + 1)
    assert asked(app, "/gradio_api/queue/join", content_length=much)[0] == 413
    assert asked(app, "/gradio_api/upload", content_length=much)[0] == 200
    assert asked(app, "/gradio_api/upload", content_length=str(guard.MOST_SENT + 1))[0] == 413
    assert asked(app, "/", content_length="many")[0] == 413
    assert asked(app, "/gradio_api/queue/join", transfer_encoding="chunked")[0] == 411


def test_the_servers_own_events_pass_and_websockets_do_not():
    seen = []

    async def app(scope, receive, send):
        seen.append(scope["type"])

    for kind in ("lifespan", "websocket"):
        asked(Guard(app, "123456"), "/", kind=kind)
    assert seen == ["lifespan"]
