"""The server: what it lets through, what it prints, what it leaves behind."""

import http.client
import os
import signal
import socket
import sys
import threading
import urllib.parse

import pytest

pytest.importorskip("gradio")

from colorize_utils.app import server
from colorize_utils.app.server import ServeError, invitation, serving
from colorize_utils.cli import main


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def get(port, path, method="GET", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    return answer.status, answer.getheaders(), answer.read()


@pytest.mark.slow
def test_it_serves_its_own_files_alone_and_leaves_nothing_behind(colorizer, tmp_path, upload):
    before = dict(os.environ)
    port = free_port()
    with serving(colorizer, port=port) as served:
        status, headers, body = get(port, "/")
        assert status == 200 and b"gradio" in body
        assert "default-src 'self'" in dict(headers)["content-security-policy"]
        assert served.code == served.lan_url == served.public_url == ""
        secret = tmp_path / "secret.txt"
        secret.write_text("not yours")
        os.makedirs(served.folder / "visits" / "another")
        (served.folder / "visits" / "another" / "original.png").write_bytes(b"not yours")
        for path in (secret, served.folder / "visits" / "another" / "original.png", "/etc/passwd", "http://127.0.0.1/"):
            assert get(port, "/gradio_api/file=" + urllib.parse.quote(str(path)))[0] == 403
        for path in ("/docs", "/gradio_api/info", "/monitoring", "/gradio_api/runs"):
            status, _, body = get(port, path)
            assert status != 200 or b"take_in" not in body
        lines = invitation(served)
        assert served.url in lines and "Code" not in lines
        folder = served.folder
    assert not folder.exists()
    assert {name: value for name, value in os.environ.items() if "GRADIO" in name} == {
        name: value for name, value in before.items() if "GRADIO" in name
    }
    with pytest.raises(OSError):
        get(port, "/")


@pytest.mark.slow
def test_on_a_network_it_asks_for_a_code(tiny_checkpoint, monkeypatch, capsys):
    port, seen = free_port(), {}

    def wait():
        seen["closed"] = get(port, "/")[0]
        out = capsys.readouterr().out
        seen["code"] = out.split("Code to enter: ")[1][:6]
        seen["lines"] = out
        seen["open"] = get(port, f"/code?code={seen['code']}")[0]

    monkeypatch.setattr(server, "wait", wait)
    arguments = ["serve", "--lan", "--port", str(port), "--model", str(tiny_checkpoint), "--device", "cpu"]
    assert main(arguments) == 0
    assert (seen["closed"], seen["open"]) == (401, 303) and seen["code"].isdigit()
    assert f"http://127.0.0.1:{port}/" in seen["lines"]  # in a test no other network is to be seen
    assert "█" in seen["lines"]
    assert "deleted" in capsys.readouterr().out


@pytest.mark.slow
def test_a_port_that_is_taken_gives_a_line(colorizer):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ServeError, match="is taken"), serving(colorizer, port=taken.getsockname()[1]):
            pass


@pytest.mark.parametrize("public", ["https://flower.example/", None])
def test_a_public_address_comes_with_a_code_and_a_warning(tiny_checkpoint, monkeypatch, capsys, public):
    import gradio

    asked = {}
    monkeypatch.setattr(
        gradio.Blocks, "launch", lambda _, **how: asked.update(how) or (None, "http://127.0.0.1:1/", public)
    )
    monkeypatch.setattr(server, "wait", lambda: None)
    status = main(["serve", "--share", "--model", str(tiny_checkpoint), "--device", "cpu"])
    out, err = capsys.readouterr()
    assert asked["share"] and asked["server_name"] == "127.0.0.1" and "public address" in err
    if public:
        assert status == 0 and public in out and "Code to enter: " in out and "PUBLIC" in out
    else:
        assert status == 1 and "no public address is to be had" in err


def test_a_notebook_shows_one_page_at_a_time(colorizer, monkeypatch, capsys):
    import gradio

    started, ended = [], []
    monkeypatch.setattr(
        gradio.Blocks,
        "launch",
        lambda page, **how: (
            started.append((page, how)) or (None, "http://127.0.0.1:1/", how["share"] and "https://flower.example/")
        ),
    )
    monkeypatch.setattr(gradio.Blocks, "close", lambda page, **_: ended.append(page))
    server.show_page(colorizer)
    assert capsys.readouterr().out == ""
    server.show_page(colorizer, share=True)
    out = capsys.readouterr().out
    assert "https://flower.example/" in out and "Code to enter: " in out
    assert ended == [started[0][0]] and all(how["inline"] for _, how in started)
    server._HERE.close()
    assert len(ended) == 2


def test_without_gradio_it_says_what_to_install(colorizer, monkeypatch):
    monkeypatch.setitem(sys.modules, "colorize_utils.app.page", None)
    with pytest.raises(ServeError, match=r'pip install "\.\[app\]"'), serving(colorizer):
        pass


def test_without_segno_there_is_no_qr_code(monkeypatch):
    assert "█" in server.qr_code("http://192.0.2.1:7860/")
    monkeypatch.setitem(sys.modules, "segno", None)
    assert server.qr_code("http://192.0.2.1:7860/") == ""


def test_contradicting_options_are_refused(capsys):
    for options in (["--code", "1", "--no-code"], ["--code", ""]):
        with pytest.raises(SystemExit):
            main(["serve", *options])
    assert "--no-code" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="there os.kill ends the process")
def test_a_signal_ends_the_waiting(monkeypatch):
    before = signal.getsignal(signal.SIGTERM)
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
    server.wait()
    assert signal.getsignal(signal.SIGTERM) is before
