"""``bcpd verify``: try claims, see that every wrong version of them fails, and write what was found."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from bcpd.cli.console import add_threads, out, set_threads
from bcpd.progress import Meter

if TYPE_CHECKING:
    from bcpd.losses import Loss
    from bcpd.theory import Check, Claim
    from bcpd.theory.mutants import Fate

__all__ = ["add_verify"]

MANY_CLAIMS = 6


def add_verify(verbs: Any) -> None:
    """Add the verb to the parser."""
    verify = verbs.add_parser(
        "verify",
        help="check every claim, and that every negative control fails",
        description="Try claims about p*, and wrong versions of them that must fail. Exit status 1 where a claim "
        "fails, a control passes or a mutant survives.",
    )
    verify.add_argument("--level", choices=("quick", "full"), default="quick", help="quick: under 2 minutes")
    verify.add_argument("--seed", type=int, default=0, help="of every random network, world and sample")
    verify.add_argument("--list", action="store_true", help="list the claims and their controls, and try nothing")
    verify.add_argument(
        "--only", action="append", default=[], metavar="ID", help="this claim alone, or this number (C8); repeatable"
    )
    verify.add_argument(
        "--mixture",
        metavar="NAME",
        help="try the claims in this mixture instead: a name of `bcpd mixtures`, or a JSON spec",
    )
    verify.add_argument(
        "--loss",
        metavar="NAME",
        help="try the claims about losses on this one instead: a name, or module:function of your own "
        "(logits, labels) -> a value an example",
    )
    verify.add_argument(
        "--mutants",
        action="store_true",
        help="also seed wrong versions into the package's own formulas: each must turn a check red (full does)",
    )
    verify.add_argument("--json", type=Path, metavar="PATH", help="write the checks here")
    verify.add_argument("--report", type=Path, metavar="PATH", default=Path("report.html"), help="the page to write")
    add_threads(verify, 1)
    verify.set_defaults(run=_verify)


def _verify(arguments: argparse.Namespace) -> int:
    from bcpd.theory import find_claims

    set_threads(arguments)
    if arguments.list:
        _list(find_claims(arguments.only))
        return 0
    results, checks, fates = _tried(arguments)
    from bcpd.report import write_report
    from bcpd.runs import write_results

    if arguments.json is not None:
        write_results(arguments.json, results)
    write_report([results], arguments.report)
    _print(checks, fates)
    claims = [check for check in checks if check.role == "claim"]
    controls = [check for check in checks if check.role == "control"]
    chance = results["false_alarm"]
    sentence = (
        f"{sum(c.holds for c in claims)} of {len(claims)} claims hold, "
        f"{sum(not c.holds for c in controls)} of {len(controls)} negative controls fail"
    )
    if fates:
        sentence += f", {sum(fate.killed for fate in fates)} of {len(fates)} mutants are killed"
    out.print(
        f"{sentence}: {'verified' if results['ok'] else 'NOT VERIFIED'} in {results['seconds']:.0f} s; false alarms: "
        f"at most {chance['bound']:.1g} in all (budget {chance['budget']:g}); report: {arguments.report}",
        markup=False,
        highlight=False,
    )
    return 0 if results["ok"] else 1


def _tried(arguments: argparse.Namespace) -> tuple[dict[str, Any], list[Check], list[Fate]]:
    """Run what was asked for; the results as they are stored."""
    from bcpd import theory
    from bcpd.provenance import provenance
    from bcpd.runs.points import find_mixture
    from bcpd.theory.mutants import MUTANTS, try_mutants
    from bcpd.theory.pictures import pictures
    from bcpd.theory.suite import BUDGET
    from bcpd.train import Recipe, fit, followed_gradient

    started = time.monotonic()
    trainer = theory.Trainer(followed_gradient, fit, Recipe)
    mixture = None if arguments.mixture is None else (arguments.mixture, find_mixture(arguments.mixture))
    loss = None if arguments.loss is None else _find_loss(arguments.loss)
    own = mixture is not None or loss is not None
    steps = theory.plan(arguments.level, arguments.seed, trainer, only=arguments.only, mixture=mixture, loss=loss)
    checks: list[Check] = []
    with Meter("verify", len(steps)) as meter:
        for check in theory.run_checks(steps):
            checks.append(check)
            meter.advance(check.id)
    fates: list[Fate] = []
    if (arguments.mutants or arguments.level == "full") and not own:
        chosen = {claim.id for claim in theory.find_claims(arguments.only)}
        selected = [mutant for mutant in MUTANTS if mutant.claim in chosen]
        with Meter("mutants", len(selected)) as meter:
            for fate in try_mutants(selected, theory.CLAIMS, arguments.seed, trainer):
                fates.append(fate)
                meter.advance(fate.mutant.name)
    tried = [claim for claim in theory.CLAIMS if any(step.claim is claim for step in steps)]
    settings = theory.Settings("quick", arguments.seed, trainer, mixture, loss)
    with Meter("pictures", len(tried)) as meter:
        drawn = {}
        for claim in tried:
            if claim.picture is not None and not own:
                drawn[claim.id] = dict(claim.picture(settings))
            meter.advance(claim.id)
    results: dict[str, Any] = {
        "kind": "verify",
        "ok": theory.verdict(checks) and all(fate.killed for fate in fates),
        "level": arguments.level,
        "seed": arguments.seed,
        "only": list(arguments.only),
        "mixture": arguments.mixture,
        "loss": arguments.loss,
        "checks": [check.record() for check in checks],
        "claims": [_described(claim) for claim in tried],
        "claim_pictures": drawn,
        "matrix": {claim: {name: dict(row) for name, row in rows.items()} for claim, rows in theory.MATRIX.items()},
        "controls": dict(theory.CONTROLS),
        "false_alarm": {
            "bound": theory.false_alarm_bound(checks),
            "budget": BUDGET,
            "comparisons": sum(check.comparisons for check in checks if check.role == "claim"),
        },
        "pictures": {} if own else pictures(arguments.seed),
        "mutants": [fate.record() for fate in fates],
        "provenance": provenance(),
        "seconds": round(time.monotonic() - started, 1),
    }
    return results, checks, fates


def _described(claim: Claim) -> dict[str, Any]:
    texts = ("id", "number", "title", "statement", "formula", "conditions", "source")
    return {**{name: getattr(claim, name) for name in texts}, "controls": dict(claim.controls)}


def _find_loss(name: str) -> Loss:
    """A loss by name, or a user's ``module:function``, looked up from the working directory too."""
    from bcpd.losses import LOSSES, Loss
    from bcpd.theory.scores.own_loss import loss_from_callable

    if name in LOSSES:
        return LOSSES[name]
    module, _, attribute = name.partition(":")
    if not attribute:
        raise ValueError(f"--loss must be one of {', '.join(LOSSES)}, or module:function; received {name!r}")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"--loss {name!r} cannot be imported: {error}") from None
    if isinstance(found, Loss):
        return found
    if not callable(found):
        raise ValueError(f"--loss {name!r} must be a Loss or a function (logits, labels), received {found!r}")
    return loss_from_callable(found, attribute)


def _list(claims: Sequence[Claim]) -> None:
    table = Table("number", "id", "claim", "holds for", "negative controls")
    for claim in claims:
        table.add_row(claim.number, claim.id, claim.title, claim.conditions, ", ".join(claim.controls))
    out.print(table)
    for claim in claims if len(claims) <= MANY_CLAIMS else []:
        out.print(f"{claim.id}: {claim.statement}  [{claim.source}]", markup=False, highlight=False)
        for control, wrong in claim.controls.items():
            out.print(f"  {control}: {wrong}", markup=False, highlight=False)


CONTROLS = "controls that failed, as they must"


def _print(checks: Sequence[Check], fates: Sequence[Fate]) -> None:
    """A row for each claim; for a few claims a row for each place. Then what came out otherwise, and the mutants."""
    few = len({check.claim for check in checks}) <= MANY_CLAIMS
    groups: dict[tuple[str, ...], list[Check]] = {}
    for check in checks:
        key: tuple[str, ...] = (check.claim,)
        if few:
            key += (check.loss, check.world, check.detail)
        groups.setdefault(key, []).append(check)
    places = ("loss", "world", "detail") if few else ("tried in",)
    rows: list[dict[str, str]] = []
    for key, members in groups.items():
        claims = [check for check in members if check.role == "claim"]
        controls = [check for check in members if check.role == "control"]
        worst = max(claims, key=_used) if claims else None
        tight = [check.tightness for check in claims if check.tightness is not None]
        failed = f"{sum(not check.holds for check in controls)} of {len(controls)}"
        tried = len({(check.world, check.loss, check.detail) for check in members})
        where = key[1:] if few else (f"{tried} places" if tried > 1 else "1 place",)
        error = None if worst is None or worst.difference is None else f"{worst.difference:.2g} ± {worst.stderr:.1g}"
        holds = all(check.holds for check in claims)
        rows.append(
            {
                "claim": key[0],
                **dict(zip(places, where, strict=True)),
                "value": f"{worst.value:.2g}" if worst else "",
                "bound": f"{worst.bound:g}" if worst else "",
                "found less claimed": error or "",
                "tightness": f"{max(tight):.4f}" if tight else "",
                "holds": "" if not claims else "[green]yes[/]" if holds else "[bold red]NO[/]",
                CONTROLS: failed if all(check.as_expected for check in controls) else f"[bold red]{failed}[/]",
            }
        )
    empty = {"loss": "-", "detail": "", "found less claimed": "", "tightness": ""}
    columns = [name for name in rows[0] if any(row[name] != empty.get(name) for row in rows)] if rows else ["claim"]
    table = Table(*columns)
    for row in rows:
        table.add_row(*(row[name] for name in columns))
    out.print(table)
    for check in checks:
        if not check.as_expected:
            said = "does not hold" if check.role == "claim" else "a control that should fail"
            out.print(f"{check.id}: {said}: value {check.value:.3g}, bound {check.bound:g}", markup=False)
    if fates:
        kills = Table("mutant", "formula", "what is wrong about it", "check", "value", "bound", "killed")
        for fate in fates:
            kills.add_row(
                fate.mutant.name,
                fate.mutant.target,
                fate.mutant.change,
                fate.check.id,
                f"{fate.check.value:.2g}",
                f"{fate.check.bound:g}",
                "[green]yes[/]" if fate.killed else "[bold red]SURVIVED[/]",
            )
        out.print(kills)


def _used(check: Check) -> float:
    """How close to its bound: larger is closer."""
    return check.value / check.bound if check.bound > 0 else check.value - check.bound
