import subprocess
import sys

import pytest
import torch

from colorize_utils.devices import has_room_for

FAULTS = """
import resource, torch
from colorize_utils.devices import keep_freed_memory

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


def test_pictures_move_to_a_gpu_alone():
    assert not has_room_for(1, torch.device("cpu"))
