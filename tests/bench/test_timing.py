"""The shared timer: who runs when, what is counted, and memory that is measured in a process of its own."""

from __future__ import annotations

import json
import sys
import time
from functools import partial

import pytest
import torch

from bcpd.bench.timing import Timing, clock, copy_rate, extra_memory, interleaved, machine, matmul_rate


def test_variants_take_turns_and_the_order_turns_round() -> None:
    calls: list[str] = []
    timings = interleaved({name: partial(calls.append, name) for name in "abc"}, rounds=3)
    # the first round is a warm-up
    assert "".join(calls) == "cba" + "abc" + "cba" + "abc"
    assert list(timings) == ["a", "b", "c"]
    assert all(len(timing.wall) == len(timing.cpu_times) == 3 for timing in timings.values())


def test_waiting_takes_wall_time_and_no_cpu_time() -> None:
    timings = interleaved({"waits": lambda: time.sleep(0.02), "works": lambda: sum(range(300_000))}, rounds=3)
    assert timings["waits"].best >= 0.02
    assert timings["waits"].cpu < 0.01
    assert timings["waits"].busy
    assert clock(timings) == "cpu"
    assert timings["works"].cpu > 0.001


def test_medians_best_and_busy() -> None:
    timing = Timing((3.0, 1.0, 2.0), (1.9, 0.9, 1.95))
    assert (timing.median, timing.best, timing.cpu) == (2.0, 1.0, 1.9)
    assert not timing.busy
    assert clock({"free": timing}) == "wall"
    assert Timing((2.0,), (1.8,)).busy
    assert clock({"free": timing, "waiting": Timing((2.0,), (1.8,))}) == "cpu"
    assert json.loads(json.dumps(timing.record())) == {
        "seconds": 2.0,
        "best": 1.0,
        "cpu": 1.9,
        "busy": False,
        "rounds": 3,
    }


@pytest.mark.parametrize(("variants", "rounds"), [({}, 3), ({"a": lambda: None}, 0)])
def test_nothing_to_time_is_refused(variants: dict[str, object], rounds: int) -> None:
    with pytest.raises(ValueError, match=rf"received {len(variants)} variants and {rounds} rounds"):
        interleaved(variants, rounds)  # type: ignore[arg-type]


def test_rates_are_those_of_the_time_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bcpd.bench.timing.interleaved", lambda variants, rounds: dict.fromkeys(variants, HALF))
    assert matmul_rate(size=100) == 2 * 100**3 / 0.5
    assert copy_rate(megabytes=1) == 2 * 2**20 / 0.5


HALF = Timing((0.5, 1.5), (0.5, 1.5))


def test_rates_are_measured() -> None:
    assert 1e8 < matmul_rate(size=256, rounds=1) < 1e14
    assert 1e7 < copy_rate(megabytes=4, rounds=1) < 1e13


def test_the_machine_is_described_in_json() -> None:
    described = machine()
    assert json.loads(json.dumps(described)) == described
    assert described["cpu"]
    assert described["threads"] == torch.get_num_threads()
    assert {"torch", "numpy", "scikit-learn"} <= set(described["packages"])


def nothing() -> torch.Tensor:
    """An array that is there, and touched by the code that the actions run."""
    return torch.zeros(2**20).add_(1)


def kept(state: torch.Tensor) -> torch.Tensor:
    return torch.ones(10 * 2**20)


def passing(state: torch.Tensor) -> float:
    return float(torch.ones(10 * 2**20).sum())


def in_place(state: torch.Tensor) -> torch.Tensor:
    return state.add_(1)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_what_the_action_takes_at_its_peak() -> None:
    for action in (kept, passing):
        found = extra_memory(nothing, action)
        assert found is not None
        assert 40 * 2**20 <= found < 42 * 2**20
    found = extra_memory(nothing, in_place)
    assert found is not None
    assert found < 2**20
