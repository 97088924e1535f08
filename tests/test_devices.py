import os
import platform
import subprocess
import sys

import pytest
import torch
from PIL import Image

from colorize_utils.devices import has_room_for

FAULTS = """
import resource, torch
from colorize_utils.machine import keep_freed_memory

def faults():
    for _ in range(10):
        torch.ones(1 << 24)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.ones(1 << 24)  # 64 MB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(faults(), keep_freed_memory(), faults())
"""


@pytest.mark.slow
def test_freed_memory_is_kept():
    """Counted in page faults, of a process of its own, because it holds for a whole process."""
    result = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    before, kept, after = result.stdout.split()
    assert kept == "False" or int(after) * 10 < int(before)


AROUND = (
    FAULTS.rsplit("\n", 2)[0].replace("from colorize_utils.machine import keep_freed_memory", "")
    + """
import sys
from colorize_utils.cli import main
from colorize_utils.inference import Colorizer
from colorize_utils.notebook.bootstrap import prepare

before = faults()
Colorizer.from_checkpoint(sys.argv[1], "cpu").colorize(sys.argv[2])
by_a_library = faults()
if sys.argv[3] == "notebook":
    prepare()
else:
    assert main(["colorize", sys.argv[2], "--model", sys.argv[1], "--device", "cpu", "--quiet"]) == 0
print(before, by_a_library, faults())
"""
)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["notebook", "command line"])
def test_the_allocator_is_set_by_who_owns_the_process(way, tmp_path, tiny_checkpoint):
    Image.new("L", (32, 32)).save(tmp_path / "a.png")
    command = [sys.executable, "-c", AROUND, tiny_checkpoint, tmp_path / "a.png", way]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    before, by_a_library, after = map(int, result.stdout.splitlines()[-1].split())
    assert by_a_library * 2 > before
    if platform.libc_ver()[0] == "glibc":
        assert after * 10 < before


def test_pictures_move_to_a_gpu_alone():
    assert not has_room_for(1, torch.device("cpu"))
