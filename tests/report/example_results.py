"""Small made-up results of every kind, in the shape in which they are stored."""

from __future__ import annotations

from typing import Any

from bcpd.runs import Quantity, summarise
from bcpd.theory import CONTROLS, MATRIX, Check
from bcpd.theory.check import Role

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


def check(
    id: str,
    value: float,
    bound: float = 1e-12,
    loss: str = "-",
    world: str = "finite X",
    control: str | None = None,
    role: Role | None = None,
    detail: str = "",
    **more: Any,
) -> Check:
    """A check with the id that its parts make; a wrong version is a control unless said otherwise."""
    parts = (id, "" if loss == "-" else loss, world, detail, control or "")
    role = role or ("control" if control else "claim")
    name = "/".join(part for part in parts if part)
    return Check.of(
        name, f"{id} holds", world, loss, role, value, bound, claim=id, control=control, detail=detail, **more
    )


CLAIMS = (
    ("risk-identity", "C1", r"\mathbb{E}\,\ell(y, q) = \mathbb{E}\,H_\ell(p^*) + \mathbb{E}\,D_\ell(p^*, q)"),
    ("own-metric", "C15", r"\mathbb{E}\,D_\ell(p^*, q_\ell) < \mathbb{E}\,D_\ell(p^*, q_{\ell'})"),
    ("excess-risk-l2", "C8", r"R(q) - R^* \leq \sqrt{2\,\mathbb{E}\|q - p^*\|^2}"),
    ("posterior-calibration", "C17", r"\mathbb{E}\,\langle h(x), e_y - p^*(x) \rangle = 0"),
    ("your-own", "C99", r"x \leq y"),
)
"""Id, number and formula of the claims in the example."""


def verify() -> dict[str, Any]:
    """A verification whose checks all come out as they should: Theorem 1, an inequality, chance, a signed gap."""
    checks = []
    for claim in ("risk-identity", "own-metric"):
        for loss in dict.fromkeys(loss for row in MATRIX[claim].values() for loss in row):
            checks.append(check(claim, 6e-16, loss=loss))
            for control, effects in MATRIX[claim].items():
                effect = effects.get(loss, "-")
                if effect == "fails":
                    checks.append(check(claim, 0.5, loss=loss, control=control))
                elif effect == "passes":
                    checks.append(check(claim, 1e-15, loss=loss, control=control, role="claim"))
    for classes, tightness in ((2, 0.99974), (5, 0.7071)):
        detail = f"K={classes}"
        checks.append(check("excess-risk-l2", tightness - 1, detail=detail, tightness=tightness, stderr=1e-3))
        checks.append(check("excess-risk-l2", 2e-3, detail=detail, control="constant_one"))
    checks.append(check("posterior-calibration", 2.1, 5.0, world="finite", comparisons=40))
    checks.append(check("posterior-calibration", 60.0, 5.0, world="finite", control="off"))
    checks.append(check("your-own", -0.25, -1e-6, world="a plane"))
    checks.append(check("your-own", 0.25, -1e-6, world="a plane", control="reversed"))
    wrong = {"constant_one": "the constant is 1", "off": "the sampler is off", "reversed": "the gap is reversed"}
    return {
        "kind": "verify",
        "ok": True,
        "level": "quick",
        "seed": 0,
        "only": [],
        "mixture": None,
        "loss": None,
        "seconds": 61.2,
        "checks": [one.record() for one in checks],
        "claims": [
            {
                "id": id,
                "number": number,
                "title": f"Title of {id}",
                "statement": f"{id} in words.",
                "formula": formula,
                "conditions": f"Where {id} holds.",
                "source": f"Source of {id}",
                "controls": {**CONTROLS, **wrong},
            }
            for id, number, formula in CLAIMS
        ],
        "claim_pictures": {"risk-identity": curves(), "own-metric": panels()},
        "matrix": {claim: {control: dict(row) for control, row in rows.items()} for claim, rows in MATRIX.items()},
        "controls": dict(CONTROLS),
        "false_alarm": {"bound": 2.3e-5, "budget": 1e-3, "comparisons": 40},
        "pictures": pictures(),
        "mutants": [mutant("halved-distance", 0.5), mutant("bits", "inf")],
        "provenance": PROVENANCE,
    }


def mutant(name: str, value: Any, killed: bool = True) -> dict[str, Any]:
    """A mistake seeded into the formula of a distance."""
    return {
        "name": name,
        "target": "bcpd.simplex:kl",
        "change": f"what is wrong with {name}",
        "claim": "risk-identity",
        "check": "risk-identity/ce/finite X",
        "killed": killed,
        "value": value,
        "bound": 1e-12,
    }


def curves(logarithmic: bool = False) -> dict[str, Any]:
    """A picture with every style, a band, a line, and numbers that are none."""
    x = [0.5, 1.0, 2.0, 4.0]
    band = {"low": [0.1, 0.2, 0.3, 0.4], "high": [0.3, 0.4, 0.5, 0.6]}
    return {
        "kind": "curves",
        "title": "Efficiency",
        "caption": "The points follow the line.",
        "x_label": "separation",
        "y_label": "ratio",
        "x_log": logarithmic,
        "y_log": logarithmic,
        "series": [
            {"name": "CE", "x": x, "y": [0.2, 0.3, 0.4, 0.5], "style": "line", "colour": "ce", **band},
            {"name": "MSE", "x": x, "y": [0.0, "nan", 2.0, 1.0], "style": "points", "colour": "mse"},
            {"name": "smooth", "x": x, "y": [1, 2, 3, 4], "style": "dashed", "colour": "a"},
            {"name": "measured", "x": x, "y": [1, 2, 3, 5], "style": "line+points", "colour": "control"},
        ],
        "lines": [{"y": 1.0, "name": "no difference"}],
    }


def surface() -> dict[str, Any]:
    """A bowl with a point at its bottom and a path down to it."""
    steps = [-2.0, -1.0, 0.0, 1.0, 2.0]
    return {
        "kind": "surface",
        "title": "Risk",
        "caption": "One valley.",
        "x_label": "weight",
        "y_label": "bias",
        "z_label": "risk",
        "x": steps,
        "y": steps[1:4],
        "z": [[x * x + y * y if x < 2 else "inf" for x in steps] for y in steps[1:4]],
        "points": [{"name": "minimiser", "x": 0.0, "y": 0.0, "colour": "bayes"}],
        "paths": [{"name": "descent", "x": [-2.0, 0.0], "y": [1.0, 0.0], "colour": "mse"}],
    }


def panels() -> dict[str, Any]:
    """A curve beside a surface."""
    return {"kind": "panels", "title": "Two views", "caption": "Both fall.", "panels": [curves(True), surface()]}


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
