"""Small made-up results of every kind, in the shape in which they are stored."""

from __future__ import annotations

from typing import Any

from bcpd.runs import Quantity, summarise
from bcpd.theory import CONTROLS, MATRIX, Check

DRAWS = 4
EPOCHS = 6
PROVENANCE = {"bcpd": "0.1.0", "code": "0123456789abcdef", "packages": {"torch": "2.0"}, "threads": 1}


def quickstart(gap: float = -0.01, spread: float = 0.001) -> dict[str, Any]:
    """MSE teachers ``gap`` from the CE teachers in every distance, their students as many points more accurate."""
    rows, paths = [], []
    for arm, offset in (("ce", 0.0), ("mse", gap)):
        for checkpoint, late in (("best_score", 0.0), ("last", 0.02)):
            for draw in range(DRAWS):
                luck = spread * (draw - 1.5) * (1 if arm == "ce" else -1)
                level = 0.08 + offset + late + luck
                common = {"draw": draw, "arm": arm, "checkpoint": checkpoint, "epoch": 3 + draw % 2}
                distances = {f"{place}_{kind}": level for place in ("fresh", "transfer") for kind in ("mse", "kl")}
                rows.append({**common, "role": "teacher", "teacher_checkpoint": None, **distances})
                accuracy = {"fresh_accuracy": 0.55 - offset - luck, "agreement": 0.9}
                rows.append({**common, "role": "student", "teacher_checkpoint": "best_score", **distances, **accuracy})
        path = [[0.3 / (1 + epoch) + offset + 0.05] * DRAWS for epoch in range(EPOCHS)]
        metrics = {f"{place}_{kind}": path for place in ("fresh", "transfer") for kind in ("mse", "kl")}
        paths.append({"role": "teacher", "arm": arm, "teacher_checkpoint": None, "metrics": metrics})
    for draw in range(DRAWS):
        exact = {"draw": draw, "arm": "bayes", "checkpoint": "best_score", "epoch": 3, "role": "student"}
        rows.append({**exact, "teacher_checkpoint": None, "fresh_mse": 0.01, "fresh_accuracy": 0.6 + 0.001 * draw})
    quantities = [
        *(
            Quantity(name, f"distance {name}", "teacher", checkpoint)
            for checkpoint in ("best_score", "last")
            for name in ("transfer_mse", "fresh_mse", "fresh_kl")
        ),
        Quantity("fresh_accuracy", "accuracy", "student", "best_score", "best_score"),
        Quantity("agreement", "agreement", "student", "best_score", "best_score"),
    ]
    return {
        "kind": "quickstart",
        "title": "Synthetic mixture",
        "question": "Is it closer?",
        "spec": {"draws": DRAWS, "rates": [0.01, 0.1]},
        "provenance": PROVENANCE,
        "seconds": 12.3,
        "bayes_error": {"value": 0.39, "stderr": 0.0005, "method": "monte_carlo"},
        "tuning": [
            _trial("ce", 0.01, 1.3, True, False),
            _trial("ce", 0.1, "inf", False, False),
            _trial("mse", 0.1, 0.61, True, True),
        ],
        "sensitivity": [
            {
                "role": "teacher",
                "arm": arm,
                "learning_rate": rate,
                "checkpoint": checkpoint,
                "fresh_mse": [level, 1.1 * level],
            }
            for arm in ("ce", "mse")
            for checkpoint in ("best_score", "last")
            for rate, level in ((0.01, 0.03), (0.1, 0.03 if checkpoint == "best_score" else 0.09))
        ],
        "rows": rows,
        "paths": paths,
        "summary": summarise(rows, quantities, unit="draw"),
    }


def _trial(arm: str, rate: float, mean: Any, chosen: bool, edge: bool) -> dict[str, Any]:
    score = "nll" if arm == "ce" else "brier"
    return {"arm": arm, "role": "teacher", "learning_rate": rate, "mean": mean, "chosen": chosen, "edge": edge} | {
        "score": score
    }


def real(gap: float = -0.03) -> dict[str, Any]:
    """Three seeds; all networks at the last epoch only."""
    rows, paths = [], []
    for arm, offset in (("ce", 0.0), ("mse", gap)):
        for role, teacher_checkpoint in (("teacher", None), ("student", "last")):
            for seed in range(3):
                value = 0.6 + offset + 0.001 * seed * (1 if arm == "ce" else -1)
                rows.append(
                    {
                        "seed": seed,
                        "role": role,
                        "arm": arm,
                        "teacher_checkpoint": teacher_checkpoint,
                        "checkpoint": "last",
                        "epoch": 5,
                        "test_accuracy": value,
                        "test_brier": value,
                    }
                )
            metrics = {
                name: [[0.5 + 0.01 * epoch + offset] * 3 for epoch in range(5)]
                for name in ("validation_accuracy", "validation_brier", "validation_nll")
            }
            paths.append({"role": role, "arm": arm, "metrics": metrics})
    quantities = [
        Quantity(name, name.replace("_", " "), role, "last", teacher_checkpoint)
        for role, teacher_checkpoint in (("teacher", None), ("student", "last"))
        for name in ("test_accuracy", "test_brier")
    ]
    return {
        "kind": "real",
        "title": "Images",
        "question": "Is it better?",
        "dataset": "digits",
        "spec": {"seeds": 3},
        "provenance": PROVENANCE,
        "seconds": 3,
        "tuning": [{**_trial("ce", 0.1, 0.5, True, False), "weight_decay": 5e-4}],
        "rows": rows,
        "paths": paths,
        "summary": summarise(rows, quantities, unit="seed"),
        "notes": ["Three seeds are few."],
    }


def verify() -> dict[str, Any]:
    """A verification whose checks all come out as they should."""
    checks = []
    for claim, controls in MATRIX.items():
        for column, loss in enumerate(("ce", "mse")):
            name = f"{claim}/{loss}/finite X"
            checks.append(Check.of(name, f"{claim} holds", "finite X", loss, "claim", 6e-16, 1e-12))
            for control, effects in controls.items():
                if effects[column] == "-":
                    continue
                fails = effects[column] == "fails"
                role, value = ("control", 0.5) if fails else ("claim", 1e-15)
                checks.append(
                    Check.of(f"{name}/{control}", f"{claim}, {control}", "finite X", loss, role, value, 1e-12)
                )
    checks.append(Check.of("known-distance/kl", "as it should be", "finite", "-", "claim", 1e-14, 1e-12))
    checks.append(Check.of("known-distance/kl/bits", "in bits", "finite", "-", "control", 0.1, 1e-12))
    return {
        "kind": "verify",
        "ok": True,
        "level": "quick",
        "seed": 0,
        "seconds": 61.2,
        "checks": [check.record() for check in checks],
        "matrix": {
            claim: {control: {"ce": effects[0], "mse": effects[1]} for control, effects in row.items()}
            for claim, row in MATRIX.items()
        },
        "controls": dict(CONTROLS),
        "statements": {claim: f"{claim} in words" for claim in MATRIX},
        "pictures": pictures(),
        "provenance": PROVENANCE,
    }


def pictures() -> dict[str, Any]:
    """The shape of ``bcpd.theory.pictures.pictures`` with few numbers."""
    row = [[0.7, 0.2, 0.1], [0.2, 0.6, 0.2], [0.1, 0.2, 0.7]]
    sides = {"risk": [1.0, 1.5], "constant": 0.4, "claimed": [1.0, 1.5]}
    wrong = {"dropped_constant": [0.6, 1.1], "swapped_arguments": [1.1, 1.4]}
    reached = {"loss": "ce", "readout": "softmax", "proper": True, "parameters": {}, "minimiser": [0.6, 0.3, 0.1]}
    return {
        "posterior": {
            "mixture": "plane",
            "first": [0.0, 1.0],
            "second": [0.0, 2.0],
            "bayes": [row, row, row],
            "points": [[0.2, 0.3], [0.8, 1.2]],
            "labels": [0, 2],
        },
        "identity": {"losses": {"ce": {**sides, **wrong}, "mse": {**sides, **wrong}}},
        "projection": {
            "x": [0.0, 1.0, 2.0],
            "bayes": [0.1, 0.9, 0.2],
            "densities": [[0.1, 0.2, 0.3], [0.3, 0.2, 0.1]],
            "fitted": {"ce": [0.2, 0.5, 0.7], "mse": [0.1, 0.6, 0.9]},
            "distances": {"ce": {"mse": 0.2, "kl": 0.2}, "mse": {"mse": 0.1, "kl": 0.4}},
        },
        "minimisers": {
            "bayes": [0.6, 0.3, 0.1],
            "reached": [reached],
            "paths": {
                name: {"parameter": parameter, "values": [0.0, 1.0], "minimisers": [[0.6, 0.3, 0.1], [0.4, 0.3, 0.3]]}
                for name, parameter in (("label_smoothing", "epsilon"), ("focal", "gamma"))
            },
        },
    }
