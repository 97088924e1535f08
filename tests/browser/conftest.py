"""JupyterLab on a free port with settings of its own, and a page of a real browser in front of it."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from browsers import started

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def folder(tmp_path):
    """The folder that JupyterLab serves: put notebooks there before asking for `lab` or `page`."""
    folder = tmp_path / "alone"
    folder.mkdir()
    return folder


@pytest.fixture
def lab(tmp_path, folder):
    """A JupyterLab, with settings of its own: a function of a notebook's name to its address."""
    settings = tmp_path / "settings"
    extension = settings / "@jupyterlab"
    for name, values in {
        "notebook-extension/tracker": {"windowingMode": "none"},  # every cell is in the page, seen or not
        "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    }.items():
        path = extension / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(values))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "COLORIZE_PROFILE": "smoke",
        "COLORIZE_RUNS": str(tmp_path / "runs"),
        "JUPYTERLAB_SETTINGS_DIR": str(settings),
        "JUPYTERLAB_WORKSPACES_DIR": str(tmp_path / "workspaces"),
        "JUPYTER_DATA_DIR": str(tmp_path / "jupyter"),  # where it keeps which notebooks are trusted
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--expose-app-in-browser"]
    command += [f"--ServerApp.root_dir={folder}", f"--ServerApp.port={port}", "--IdentityProvider.token=flowers"]
    with open(tmp_path / "lab.log", "wb") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        for _ in range(120):
            time.sleep(0.5)
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/lab?token=flowers", timeout=5).close()
                break
            except OSError:
                assert server.poll() is None, (tmp_path / "lab.log").read_text()
        yield lambda name: f"http://127.0.0.1:{port}/lab/tree/{name}?token=flowers"
    finally:
        server.terminate()
        server.wait(timeout=30)


@pytest.fixture
def page():
    """An empty page."""
    with started() as browser:
        yield browser.new_page(viewport={"width": 1280, "height": 1000}, accept_downloads=True)
