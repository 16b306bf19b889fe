"""One training of a table at a time: tuning of a teacher, teachers, students; what each of them records."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from bcpd.data import InMemory
from bcpd.measure import label_scores
from bcpd.train import Fitted, log_probabilities
from experiments.tables.images import measured_source
from experiments.tables.places import Places
from experiments.tables.spec import ARMS, Protocol
from experiments.tables.training import (
    Asked,
    Refused,
    diverged,
    held_out_temperature,
    loss_of,
    student_training,
    teacher,
    teacher_training,
    trained,
    trained_together,
)

__all__ = ["LATE", "LATE_GAIN", "LEFT", "levelled", "short", "train_together", "work"]

Row = dict[str, Any]
Stage = Callable[[Protocol, Places, Mapping[str, Any]], Iterator[Row]]

CHECKPOINTS = ("last", "best_accuracy")
"""The last epoch, and the one with the best validation accuracy: separate columns."""

LATE, LATE_GAIN, LEFT = 0.2, 0.02, 0.5
"""The rule by which a teacher is under-trained, see :func:`levelled`."""


def work(given: dict[str, Any]) -> list[Row]:
    """Do one task, the unit of resuming; a training within it is resumed by itself."""
    stage: Stage = _STAGES[given["stage"]]
    return list(stage(Protocol(**given["protocol"]), Places.of_task(given), given))


def train_together(several: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Train the networks of several tasks side by side, each in its folder: the tasks then only read them back."""
    trainings = []
    for given in several:
        protocol, places = Protocol(**given["protocol"]), Places.of_task(given)
        if given["stage"] != "student":
            trainings.append(teacher_training(protocol, places, Asked.by_task(given)))
            continue
        with contextlib.suppress(Refused):  # of which the task itself makes a row
            trainings.append(student_training(protocol, places, given))
    trained_together(trainings)
    return []


def short(value: float) -> float:
    """Six significant digits."""
    return float(f"{value:.6g}")


# ------------------------------------------------------------------------------------------------------------ teachers


def levelled(losses: list[float], uniform: float) -> dict[str, Any]:
    r"""Whether a training was long enough, by its training loss after every epoch.

    With :math:`L_e` the loss of epoch e of E and U that of the uniform prediction: ``left`` is :math:`L_E / U` and
    ``late_gain`` :math:`(L_{E-w} - L_E) / (U - L_E)`, the share of all that was gained that came in the last w = 20 %
    of the epochs (at least one). Under-trained: ``left`` above 50 %, or ``late_gain`` above 2 %. The second is lenient
    where the schedule has let the rate fall: it says that the schedule is over, not that a longer one would not help.
    """
    window = max(1, round(LATE * len(losses)))
    left = losses[-1] / uniform
    before = losses[-1 - window] if len(losses) > window else uniform
    gained = uniform - losses[-1]
    late = (before - losses[-1]) / gained if gained > 0 else 1.0
    return {"left": short(left), "late_gain": short(late), "under_trained": left > LEFT or late > LATE_GAIN}


def _tune(protocol: Protocol, places: Places, given: Mapping[str, Any]) -> Iterator[Row]:
    """One setting of one loss, judged by the loss's own validation score at the last epoch."""
    asked = Asked.by_task(given)
    fitted = teacher(protocol, places, asked).fitted
    (last,) = fitted.at("last")
    score = fitted.method.score
    yield {
        "net": asked.net,
        "arm": asked.loss,
        "rate": asked.setting[0],
        "decay": asked.setting[1],
        "name": score,
        "score": short(last[f"validation_{score}"]),
        "accuracy": short(last["validation_accuracy"]),
    }


def _teach(protocol: Protocol, places: Places, given: Mapping[str, Any]) -> Iterator[Row]:
    """A teacher of a seed, as it is and with a temperature, on the test set: looked at once, chosen by nothing."""
    asked = Asked.by_task(given)
    taught = teacher(protocol, places, asked)
    test = measured_source(protocol, places.data)
    uniform = float(loss_of(protocol, asked.loss)(torch.zeros(1, test.num_classes), torch.zeros(1, dtype=torch.int64)))
    path = levelled([row["train_loss"][0] for row in taught.fitted.history], uniform)
    refused = diverged(taught.fitted)
    for arm, (of, scaled) in ARMS.items():
        if of == asked.loss:
            about = {"net": asked.net, "arm": arm, "seed": asked.number, "share": asked.share}
            if refused:
                yield about | {"refused": refused}
                continue
            temperature = held_out_temperature(protocol, taught) if scaled else 1.0
            about["temperature"] = short(temperature)
            for checkpoint in ("last",) if scaled else CHECKPOINTS:
                frozen = taught.fitted.teacher(checkpoint, temperature)
                scores = _scores(protocol, taught.fitted, checkpoint, frozen, test)
                yield about | {"checkpoint": checkpoint, **scores, **path}


def _scores(protocol: Protocol, fitted: Fitted, checkpoint: str, net: nn.Module, test: InMemory) -> Row:
    """Of the test set, and what was known of the epoch before."""
    (path,) = fitted.at(checkpoint)
    log_q = log_probabilities(net, test.to(protocol.device)).cpu()
    found = label_scores(log_q.exp(), test.y.cpu(), log_q=log_q)
    row: Row = {"epoch": path["epoch"]}
    row |= {f"test_{name}": short(found[name].value) for name in ("accuracy", "nll", "brier")}
    names = ("train_loss", "validation_accuracy", "validation_nll", "validation_brier", "agreement")
    return row | {name: short(path[name]) for name in names if name in path}


# ------------------------------------------------------------------------------------------------------------ students


def _student(protocol: Protocol, places: Places, given: Mapping[str, Any]) -> Iterator[Row]:
    """A student of a seed by one method from one teacher; or the sentence by which the method refuses."""
    names = {"pair": "pair", "method": "method", "arm": "arm", "seed": "number", "share": "share"}
    about = {name: given[key] for name, key in names.items()}
    try:
        fitted = trained(student_training(protocol, places, given))
    except Refused as refused:
        yield about | {"refused": str(refused)}
        return
    if refusal := diverged(fitted):
        yield about | {"refused": refusal}
        return
    test = measured_source(protocol, places.data)
    for checkpoint in CHECKPOINTS:
        scores = _scores(protocol, fitted, checkpoint, fitted.network(checkpoint), test)
        yield about | {"checkpoint": checkpoint, **scores}


_STAGES: Mapping[str, Stage] = {"tune": _tune, "teach": _teach, "student": _student}
