"""A class of thirty at once: does the page still answer, is memory bounded, is every picture given back?

    python tests/campaigns/class.py [--clients 30] [--pictures 10] [--model FILE]

Each client, from this process over the loopback, does what a browser does: uploads a photograph, looks at a place,
gives it a colour, and downloads the file; ten times, with pictures of its own. Beside them one more asks for the page
every second. Exits with 1 where a picture is lost, mixed up with another or the page does not answer.
"""

import argparse
import io
import json
import os
import re
import secrets
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parent.parent.parent
LONGEST = 600  # seconds that one step may take before it counts as lost


@dataclass
class Seen:
    """What all clients saw: seconds by step, and what went wrong."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


def ask(url: str, content: bytes | None = None, kind: str = "application/json") -> bytes:
    headers = {"Content-Type": kind} if content is not None else {}
    with urllib.request.urlopen(urllib.request.Request(url, content, headers), timeout=LONGEST) as answer:
        return answer.read()


class Client:
    """One visitor, with a key of its own, who presses what the page's own script would press."""

    def __init__(self, url: str, seen: Seen):
        self._url, self._seen = url.rstrip("/"), seen
        self._session = secrets.token_hex(6)
        config = json.loads(ask(f"{self._url}/config"))
        self._types = {part["id"]: part["type"] for part in config["components"]}
        labels = {part["id"]: part["props"].get("label") or part["props"].get("value") for part in config["components"]}
        ids = {part["id"]: part["props"].get("elem_id") for part in config["components"]}
        self._steps = {}
        for number, step in enumerate(config["dependencies"]):
            for target, event in step["targets"]:
                self._steps[ids.get(target) or labels.get(target), event] = (step.get("id", number), step)

    def press(self, what: str, event: str, inputs: list[object], data: object = None) -> dict[int, object]:
        """An event's outputs by component; waits until they are there."""
        number, step = self._steps[what, event]
        begun = time.monotonic()
        body = {"fn_index": number, "data": inputs, "event_data": data, "session_hash": self._session}
        ask(f"{self._url}/gradio_api/queue/join", json.dumps(body).encode())
        last: list[object] = []
        with urllib.request.urlopen(
            f"{self._url}/gradio_api/queue/data?session_hash={self._session}", timeout=LONGEST
        ) as stream:
            for line in stream:
                message = json.loads(line[5:]) if line.startswith(b"data:") else {}
                if message.get("msg") == "process_completed":
                    if not message["success"]:
                        raise RuntimeError(f"{what}: {message['output']}")
                    last = message["output"]["data"]
                if message.get("msg") == "process_generating" and not last:
                    last = message["output"]["data"]
                if message.get("msg") == "close_stream":
                    break
        self._seen.seconds.setdefault(what, []).append(time.monotonic() - begun)
        return dict(zip(step["outputs"], last, strict=False))

    def upload(self, name: str, content: bytes) -> dict[str, object]:
        border = secrets.token_hex(8)
        head = f'--{border}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
        body = head.encode() + content + f"\r\n--{border}--\r\n".encode()
        begun = time.monotonic()
        (path,) = json.loads(ask(f"{self._url}/gradio_api/upload", body, f"multipart/form-data; boundary={border}"))
        self._seen.seconds.setdefault("upload", []).append(time.monotonic() - begun)
        return {"path": path, "orig_name": name, "meta": {"_type": "gradio.FileData"}}

    def picture(self, rng: np.random.Generator, name: str, model: str) -> None:
        """One picture, from upload to download; checks that the file is that picture, in colour."""
        width, height = (int(side) for side in rng.integers(900, 2200, 2))
        levels = rng.integers(0, 256, (12, 16), dtype=np.uint8)
        gray = Image.fromarray(levels).resize((width, height), Image.Resampling.BICUBIC)
        buffer = io.BytesIO()
        gray.save(buffer, "PNG", compress_level=1)
        how = [model, "safe", 1.0]
        shown = self.press("Your photographs", "upload", [[self.upload(name, buffer.getvalue())], *how])
        slider = next(value for part, value in shown.items() if self._types[part] == "imageslider")
        for side in slider:
            ask(self._url + side["url"] if side["url"].startswith("/") else side["url"])
        self.press("canvas", "select", how, {"index": [300, 200], "value": None})
        self.press("palette", "click", how, {"choice": "#{:02x}{:02x}{:02x}".format(*rng.integers(0, 256, 3))})
        made = self.press("download", "click", [False, *how])
        (file,) = (value["value"] for value in made.values() if isinstance(value, dict) and value.get("value"))
        begun = time.monotonic()
        content = ask(file["url"] if file["url"].startswith("http") else self._url + file["url"])
        self._seen.seconds.setdefault("file", []).append(time.monotonic() - begun)
        result = Image.open(io.BytesIO(content))
        if not np.array_equal(np.asarray(result.convert("L")), np.asarray(gray)):
            self._seen.faults.append(f"{name}: the file is another picture, {result.size} for {gray.size}")


def memory(process: int) -> int:
    """Megabytes that a process holds."""
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{process}/status").read_text())[1]) // 1024


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=30)
    parser.add_argument("--pictures", type=int, default=10)
    parser.add_argument("--model", default="flowers-192")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    command = [sys.executable, "-u", "-m", "colorize_utils", "serve", "--model", options.model]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    server = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    url = next(found[1] for line in server.stdout if (found := re.search(r"The page is at (\S+)", line)))
    seen, held, ended = Seen(), [memory(server.pid)], threading.Event()

    def watch() -> None:
        while not ended.wait(1):
            begun = time.monotonic()
            try:
                ask(url)
            except OSError as error:
                seen.faults.append(f"the page did not answer: {error}")
            seen.seconds.setdefault("the page itself", []).append(time.monotonic() - begun)
            held.append(memory(server.pid))

    def visit(number: int) -> int:
        done, rng = 0, np.random.default_rng((options.seed, number))
        try:
            client = Client(url, seen)
            for picture in range(options.pictures):
                client.picture(rng, f"{number}-{picture}.png", Path(options.model).name)
                done += 1
        except Exception as error:  # whatever it is, the client's further pictures are lost
            seen.faults.append(f"client {number}: {type(error).__name__}: {error}")
        return done

    watcher = threading.Thread(target=watch)
    watcher.start()
    begun = time.monotonic()
    try:
        with ThreadPoolExecutor(options.clients) as pool:
            done = sum(pool.map(visit, range(options.clients)))
        seconds = time.monotonic() - begun
    finally:
        ended.set()
        watcher.join()
        server.terminate()
        server.wait(60)
    wanted = options.clients * options.pictures
    print(f"{options.clients} clients, {options.pictures} pictures each: {done} of {wanted} in {seconds:.0f} s")
    print(f"memory of the server: {held[0]} MB at first, {max(held)} MB at most, {held[-1]} MB at the end")
    for what, times in seen.seconds.items():
        middle, late = np.percentile(times, [50, 95])
        print(f"{what:18} {middle:6.2f} s in the middle, {late:6.2f} s at 95 %, {max(times):6.2f} s at most")
    lost = wanted - done
    print("\n".join(seen.faults[:20]) if seen.faults else "nothing lost, nothing mixed up")
    return 1 if lost or seen.faults else 0


if __name__ == "__main__":
    sys.exit(main())
