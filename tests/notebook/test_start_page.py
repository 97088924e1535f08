"""The notebooks' cell that starts the page: what it installs, and what it says where it cannot."""

import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from colorize_utils.errors import ColorizeError
from colorize_utils.notebook import page

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def shown(monkeypatch):
    """What was shown, instead of showing it."""
    from colorize_utils.app import server

    shown = []
    monkeypatch.setattr(server, "show_page", lambda colorizer, share: shown.append((colorizer, share)))
    return shown


@pytest.fixture
def pip(monkeypatch):
    """Calls of pip, which ends in the status that is set here."""
    calls = []

    def run(command, **_):
        calls.append([word for word in command if ">=" in word])
        return subprocess.CompletedProcess(command, run.status)

    run.status = 0
    run.calls = calls
    monkeypatch.setattr(subprocess, "run", run)
    return run


def versions(monkeypatch, **of):
    def version(name):
        if name not in of:
            raise metadata.PackageNotFoundError(name)
        return of[name]

    monkeypatch.setattr(metadata, "version", version)


def test_it_asks_for_what_the_extra_asks_for():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {f"{name}>={least}" for name, least in page.NEEDED.items()} <= set(extras["app"])


def test_nothing_is_installed_where_all_is_there(shown, pip, monkeypatch):
    versions(monkeypatch, gradio="6.31.0", segno="1.6.6")
    page.start_page("colorizer", share=True)
    assert shown == [("colorizer", True)] and not pip.calls


@pytest.mark.parametrize("older", ["6.26.2", "5.50.0"])
def test_an_older_gradio_is_replaced(shown, pip, monkeypatch, older):
    versions(monkeypatch, gradio=older, segno="1.6.6")
    monkeypatch.delitem(sys.modules, "gradio", raising=False)
    page.start_page("colorizer")
    assert pip.calls == [["gradio>=6.27"]] and shown == [("colorizer", False)]


def test_an_older_gradio_that_is_in_use_needs_a_new_runtime(shown, pip, monkeypatch):
    versions(monkeypatch, gradio="5.50.0", segno="1.6.6")
    monkeypatch.setitem(sys.modules, "gradio", object())
    with pytest.raises(ColorizeError, match="restart"):
        page.start_page("colorizer")
    assert not shown


def test_without_network_it_says_what_does_without(shown, pip, monkeypatch):
    versions(monkeypatch)
    pip.status = 1
    with pytest.raises(ColorizeError, match=r"gradio>=6\.27, segno>=1\.6"):
        page.start_page("colorizer")
    assert not shown
