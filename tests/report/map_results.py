"""Made-up results of the map, in the shape of the real ones."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

STATES = ("score/best_score", "last/last", "score/path_minimum_mse", "accuracy/best_accuracy")
QUANTITIES = [
    f"{role} {metric} {at.replace('_mse', '_kl') if metric == 'fresh_kl' else at}"
    for role, metric in (
        ("teacher", "fresh_mse"),
        ("teacher", "fresh_kl"),
        ("teacher", "transfer_mse"),
        ("student", "fresh_accuracy"),
        ("student", "fresh_mse"),
    )
    for at in STATES
]


def made_up(seed: int = 0, **changes: Any) -> dict[str, Any]:
    """Three factors of three levels, one pair, one setting."""
    draw = np.random.default_rng(seed)
    lines = [
        {
            "factor": factor,
            "label": label,
            "scale": "linear",
            "levels": levels,
            "cells": ["base" if place == 1 else f"{factor}={level}" for place, level in enumerate(levels)],
            "base": 1,
        }
        for factor, label, levels in (
            ("train", "labelled points", [500, 2000, 8000]),
            ("bayes_error", "Bayes error", [0.2, 0.4, 0.6]),
            ("misspecification", "misspecification", ["none", "outliers", "heavy tails"]),
        )
    ]
    x, y = [500, 2000, 8000], [10, 30]
    pair = {
        "id": "train-epochs",
        "title": "Training-set size and epochs",
        "x": {"factor": "train", "label": "labelled points", "levels": x},
        "y": {"factor": "epochs", "label": "epochs", "levels": y},
        "cells": [[f"train={a}, epochs={b}" for a in x] for b in y],
    }
    pair["cells"][0][0] = None
    setting = {"id": "binary", "title": "Binary", "label": "superclasses", "levels": ["2x5"], "cells": ["binary"]}
    named = [cell for line in lines for cell in line["cells"]] + [c for r in pair["cells"] for c in r if c] + ["binary"]
    cells = list(dict.fromkeys(named))
    summary = []
    for cell, quantity in itertools.product(cells, QUANTITIES):
        mean, half = draw.normal(0, 0.004), 0.002 + 0.003 * draw.random()
        better = ("mse", "ce")[int((mean > 0) == ("accuracy" not in quantity))]
        seen = abs(mean) > half
        summary.append(
            {"cell": cell, "quantity": quantity, "mean": mean, "low": mean - half, "high": mean + half, "sd": 0.004}
            | {"n": 8, "lost": 0, "p": 0.01, "p_holm": 0.02 if seen else 0.4, "ce": 0.09, "mse": 0.09 + mean}
            | {"verdict": f"{better} closer" if seen else "no difference seen"}
        )
    arms = {"ce_t_nll": "CE + T (NLL)", "ensemble": "5 CE teachers, averaged", "bayes": "p* itself"}
    controls = [
        {"arm": arm, "label": label, "teacher_checkpoint": at, "role": role, "metric": metric}
        | {"against": "ce", "mean": -0.003, "low": -0.004, "high": -0.001, "n": 8, "lost": 0, "p": 0.001}
        | {"cell": cell, "p_holm": 0.003 if arm == "ensemble" else 0.2}
        for cell in ("base", "binary")
        for arm, label in arms.items()
        for at in ("best_score", "last")
        for role, metric in (("teacher", "fresh_mse"), ("teacher", "transfer_mse"), ("student", "fresh_accuracy"))
    ]
    rates = [0.001, 0.01, 0.1]
    figures = {"base": "map-controls", "binary": "map-controls-binary"}
    results: dict[str, Any] = {
        "kind": "when-mse-wins",
        "title": "The map",
        "question": "When is an MSE teacher closer, and its student better?",
        "notes": ["made up"],
        "seconds": 1.0,
        "spec": {"seed": seed},
        "cells": [
            {"name": cell, "factors": {}, "draws": 8, "controls": cell in figures, "controls_figure": figures.get(cell)}
            for cell in cells
        ],
        "lines": lines,
        "pairs": [pair],
        "settings": [setting],
        "quantities": [
            {"id": name, "label": name, "headline": name.endswith("score/best_score")} for name in QUANTITIES
        ],
        "summary": summary,
        "controls": controls,
        "rates": [
            {"cell": "base", "role": "teacher", "arm": arm, "tuned_by": by, "rate": 0.01, "edge": False, "score": 1.0}
            | {"stderr": 0.02, "draws": 3, "tried": 3, "within_one_stderr": 1, "below": None}
            | {"above": {"rate": 0.1, "difference": 0.04, "stderr": 0.03}}
            for arm in ("ce", "mse")
            for by in ("score", "last", "accuracy")
        ],
        "student_rates": [
            {"cell": "base", "rate": rate, "tuned": rate == 0.01, "n": 8, "mean": 0.002, "low": -0.001, "high": 0.005}
            for rate in rates
        ],
        "best_epochs": [
            {"cell": "base", "arm": arm, "epochs": 30, "median": 12.5, "low": 9, "high": 30, "n": 8, "at_end": 4}
            | {"budget_limited": True}
            for arm in ("ce", "mse")
        ],
        "sensitivity": [
            {"cell": "base", "arm": arm, "tuned_by": "score", "rate": rate, "mean": 1 + abs(np.log10(rate / 0.01)) / 9}
            for arm in ("ce", "mse")
            for rate in rates
        ],
        "planner": {
            "power": 0.8,
            "level": 0.05,
            "cells": 18,
            "level_adjusted": 0.0028,
            "quantities": [
                {
                    "quantity": QUANTITIES[0],
                    "label": "teacher's MSE",
                    "effects": [
                        {"effect": 0.001, "draws_median": 12, "draws_largest": 40, "draws_median_adjusted": 21}
                    ],
                }
            ],
        },
        "reading": [
            {"topic": "teacher", "text": "At N = 500 the MSE teacher is closer by 0.004.", "figure": "map-lines"},
            {"topic": "new topic", "text": "Nothing else.", "figure": "table"},
        ],
        "predictions": [
            {
                "id": "a",
                "statement": "CE is closer",
                "verdict": "holds",
                "parts": [{"what": "fresh MSE", "mean": 0.003, "low": 0.001, "high": 0.005, "verdict": "holds"}],
            }
        ],
    }
    return results | changes
