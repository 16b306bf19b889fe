"""Memory beyond the output does not grow with the number of points: measured on the process, in a fresh one."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap

import pytest

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

PRELUDE = """
import torch
torch.set_num_threads(1)
from bcpd.mixtures import FAMILIES, paper_toy

def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024

def streamed(name, n):
    mixture, total = FAMILIES[name](), 0.0
    for x, y in mixture.stream(n, seed=0):
        total += float(mixture.posterior(x).amax(-1).sum())
    return 1 - total / n

def growth(action):
    \"\"\"MiB by which an action raises the peak, less its output.\"\"\"
    before = peak()
    output = action()
    return peak() - before - (output.numel() * 8 / 2**20 if isinstance(output, torch.Tensor) else 0)

toy = paper_toy(num_classes=5, dimension=2)
toy.posterior(torch.zeros(100_000, 2))
"""


def measured(body: str) -> dict[str, float]:
    """What the script, in a fresh process, puts into ``found``."""
    script = PRELUDE + "found = {}\n" + textwrap.dedent(body) + "import json; print(json.dumps(found))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.slow
@linux
def test_memory_beyond_the_output_does_not_grow() -> None:
    """Half a million points: rows of 5 classes take 19 MiB; all at once need several times as much again."""
    found = measured("""
        streamed("gaussian-2d-shared", 100_000), streamed("noisy-shifted-superclasses", 100_000)
        found["stream"] = growth(lambda: streamed("gaussian-2d-shared", 500_000))
        found["finite stream"] = growth(lambda: streamed("noisy-shifted-superclasses", 500_000))
        x = torch.zeros(500_000, 2, dtype=torch.float32)
        found["posterior"] = growth(lambda: toy.posterior(x))
        found["at once"] = growth(lambda: toy._log_classes(x.double()).log_softmax(-1).exp())
    """)
    at_once = found.pop("at once")
    assert max(found.values()) < 8, found
    assert at_once > 12


@linux
@pytest.mark.slow
def test_ten_million_points_stream_through() -> None:
    """80 MiB of points, 230 MiB of probabilities; the mean is right to 5 standard errors."""
    found = measured("""
        streamed("gaussian-1d", 100_000)
        found["stream"] = growth(lambda: found.update(error=streamed("gaussian-1d", 10_000_000)))
        toy.posterior(torch.zeros(2_000_000, 2))
        x = torch.zeros(10_000_000, 2, dtype=torch.float32)
        found["posterior"] = growth(lambda: toy.posterior(x))
    """)
    assert abs(found["error"] - 0.230142) < 5 * 0.5 / 10_000_000**0.5
    assert max(found["stream"], found["posterior"]) < 8, found
