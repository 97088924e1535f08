# @title The package itself: leave this cell folded, and run it
import base64
import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path

WHEELS = {}
# {{wheels}}

with tempfile.TemporaryDirectory() as folder:
    missing = []
    for name, content in WHEELS.items():
        if importlib.util.find_spec(name.partition("-")[0]) is None:
            missing.append(Path(folder, name))
            missing[-1].write_bytes(base64.b64decode(content))
    if missing:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
        subprocess.run([*pip, *missing], check=True)
importlib.invalidate_caches()
