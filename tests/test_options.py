"""Options that several experiments have."""

import argparse

import pytest
import torch

from bcpd.cli.options import (
    add_data,
    add_execution,
    add_folders,
    add_numbers,
    check_at_least_one,
    check_device,
    execution,
    given,
)
from bcpd.train import Execution
from experiments.tables.spec import Protocol


def parsed(*texts: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_numbers(parser, seeds="", tuning_epochs="of the trainings that choose")
    add_data(parser)
    add_execution(parser)
    add_folders(parser, "NAME")
    return parser.parse_args(texts)


def test_what_was_not_given_changes_nothing() -> None:
    assert given(parsed(), "seeds", "tuning_epochs", "device", "seed") == {"seed": 0}
    assert given(parsed("--tuning-epochs", "0", "--device", "cpu"), "tuning_epochs", "device", "out") == {
        "tuning_epochs": 0,
        "device": "cpu",
    }
    assert str(parsed().teachers) == "runs/teachers"


def test_numbers_below_one_are_refused_by_name() -> None:
    check_at_least_one(parsed("--seeds", "1"), "seeds", "tuning_epochs")
    with pytest.raises(ValueError, match=r"^--tuning-epochs must be at least 1, received 0$"):
        check_at_least_one(parsed("--seeds", "1", "--tuning-epochs", "0"), "seeds", "tuning_epochs")


def test_steps_are_computed_as_asked() -> None:
    assert execution(parsed()) == Execution()
    assert execution(parsed("--precision", "bfloat16", "--graphs")) == Execution("bfloat16", graphs=True)
    assert execution(parsed("--compile")) == Execution(compile=True)


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    check_device(Protocol("digits"))
    with pytest.raises(ValueError, match="device cuda:1: torch sees no CUDA device; use --device cpu"):
        check_device(Protocol("digits", device="cuda:1"))
    with pytest.raises(ValueError, match="graphs needs CUDA, received device cpu"):
        check_device(Protocol("digits", execution=Execution(graphs=True)))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    check_device(Protocol("digits", device="cuda:1", execution=Execution(graphs=True)))
