"""The command line: verify claims, run experiments, sample and measure, rebuild the report.

The only module that parses arguments or prints.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bcpd import __version__
from bcpd.progress import Meter

__all__ = ["main"]

out = Console(soft_wrap=True, width=None if sys.stdout.isatty() else 140)
err = Console(stderr=True, soft_wrap=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: arguments without the program's name; None takes the process's.
    Returns:
        the exit status: 0 for success; 1 where a claim fails or a negative control passes; 2 for a mistake in the
        arguments or the data, said in one sentence on standard error; 130 when interrupted.
    """
    parser = _parser()
    try:
        arguments = parser.parse_args(argv)
    except SystemExit as stop:
        return int(stop.code or 0)
    try:
        status: int = arguments.run(arguments)
        return status
    except (ValueError, OSError) as error:
        err.print(f"bcpd: error: {error}", style="bold red", markup=False, highlight=False)
        return 2
    except KeyboardInterrupt:
        err.print("bcpd: interrupted; trainings kept in a run folder go on from there", markup=False)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bcpd",
        description="How close is a teacher to the Bayes conditional probability p*(x), and do closer teachers make "
        "better students?",
    )
    parser.add_argument("--version", action="version", version=f"bcpd {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    verify = verbs.add_parser("verify", help="check every claim, and that every negative control fails")
    verify.add_argument("--level", choices=("quick", "full"), default="quick", help="quick: under 2 minutes")
    verify.add_argument("--seed", type=int, default=0, help="of every random network, world and sample")
    verify.add_argument("--json", type=Path, metavar="PATH", help="write the checks here")
    verify.add_argument("--report", type=Path, metavar="PATH", default=Path("report.html"), help="the page to write")
    _add_threads(verify, 1)
    verify.set_defaults(run=_verify)

    run = verbs.add_parser("run", help="run an experiment")
    experiments = run.add_subparsers(dest="experiment", required=True, metavar="EXPERIMENT")
    _add_quickstart(experiments)
    _add_real(experiments)

    sample = verbs.add_parser("sample", help="write points of a mixture to a file")
    sample.add_argument("--mixture", required=True, metavar="NAME", help="a name of `bcpd mixtures`, or a JSON spec")
    sample.add_argument("--n", type=int, required=True, help="number of points")
    sample.add_argument("--seed", type=int, default=0)
    sample.add_argument("--out", type=Path, required=True, metavar="FILE.npz")
    sample.set_defaults(run=_sample)

    measure = verbs.add_parser("measure", help="measure a file of probabilities against p*")
    measure.add_argument("points", type=Path, help="the file that `bcpd sample` wrote")
    measure.add_argument("probabilities", type=Path, help="a row for every point, a column for every class")
    measure.add_argument("--versus", type=Path, metavar="FILE", help="a second teacher, compared on the same points")
    measure.add_argument("--seed", type=int, default=0, help="of the bootstrap")
    measure.add_argument("--json", type=Path, metavar="PATH")
    measure.set_defaults(run=_measure)

    mixtures = verbs.add_parser("mixtures", help="list the named mixtures")
    mixtures.set_defaults(run=_mixtures)

    report = verbs.add_parser("report", help="rebuild the report and the figures from stored results")
    report.add_argument("results", type=Path, nargs="*", help="files or folders (default: the experiments' own)")
    report.add_argument("--out", type=Path, default=Path("report.html"), metavar="PATH")
    report.add_argument("--figures", type=Path, metavar="DIR", help="also write every figure as SVG and PNG")
    report.set_defaults(run=_report)
    return parser


def _add_quickstart(experiments: Any) -> None:
    from experiments.quickstart import Quickstart

    parser = experiments.add_parser("quickstart", help="the paper's synthetic mixture: CE and MSE teachers, students")
    defaults = Quickstart()
    for name in ("draws", "tuning_draws", "train", "held_out", "epochs", "batch_size", "seed"):
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=int, default=getattr(defaults, name), help="default: %(default)s"
        )
    parser.add_argument("--out", type=Path, default=Path("runs/quickstart"), metavar="DIR", help="default: %(default)s")
    _add_threads(parser, None)
    parser.set_defaults(run=_run_quickstart)


def _add_real(experiments: Any) -> None:
    from experiments.real import DATASETS, Real

    parser = experiments.add_parser("real", help="real images: CE and MSE teachers and a student from each")
    defaults = Real()
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of the official binary files")
    parser.add_argument("--dataset", choices=DATASETS, default=defaults.dataset, help="default: %(default)s")
    for name, note in (
        ("train", "images a seed, 0 for all"),
        ("test", "test images, 0 for all"),
        ("epochs", ""),
        ("batch_size", ""),
        ("seeds", ""),
        ("seed", "root seed"),
    ):
        help_text = f"{note}; default: %(default)s" if note else "default: %(default)s"
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=getattr(defaults, name), help=help_text)
    for name in ("teacher", "student"):
        parser.add_argument(f"--{name}", default=None, metavar="NET", help=f"default: {getattr(defaults, name)}")
    for name in ("temperature", "label_weight", "teacher_weight"):
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=float, default=getattr(defaults, name), help="default: %(default)s"
        )
    parser.add_argument("--no-augment", action="store_true", help="no random crop and flip")
    for name, meaning in (("rates", "learning rates"), ("decays", "weight decays")):
        parser.add_argument(
            f"--{name}",
            action="append",
            default=[],
            metavar="LOSS=VALUE[,VALUE...]",
            help=f"grid of {meaning} of a loss, chosen from by its own validation score; repeat for each loss",
        )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda; default: %(default)s")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: runs/real-DATASET")
    _add_threads(parser, None)
    parser.set_defaults(run=_run_real)


def _add_threads(parser: argparse.ArgumentParser, default: int | None) -> None:
    """Small products do not gain from a second thread, and on a shared machine they lose much by it."""
    parser.add_argument(
        "--threads", type=int, default=default, metavar="N", help=f"CPU threads; default: {default or 'the cores'}"
    )


def _set_threads(arguments: argparse.Namespace) -> None:
    import torch

    if arguments.threads is None:
        return
    if arguments.threads < 1:
        raise ValueError(f"--threads must be at least 1, received {arguments.threads}")
    torch.set_num_threads(arguments.threads)


def _verify(arguments: argparse.Namespace) -> int:
    from bcpd.provenance import provenance
    from bcpd.report import write_report
    from bcpd.runs import write_results
    from bcpd.theory import CONTROLS, MATRIX, run_checks, verdict
    from bcpd.theory.pictures import pictures
    from bcpd.theory.suite import STATEMENTS, count_checks
    from bcpd.train import followed_gradient

    _set_threads(arguments)
    started = time.monotonic()
    checks = []
    with Meter("verify", count_checks(arguments.level)) as meter:
        for check in run_checks(arguments.level, arguments.seed, followed_gradient):
            checks.append(check)
            meter.advance(check.id)
    ok = verdict(checks)
    results: dict[str, Any] = {
        "kind": "verify",
        "ok": ok,
        "level": arguments.level,
        "seed": arguments.seed,
        "checks": [check.record() for check in checks],
        "matrix": {
            claim: {control: {"ce": ce, "mse": mse} for control, (ce, mse) in row.items()}
            for claim, row in MATRIX.items()
        },
        "controls": dict(CONTROLS),
        "statements": STATEMENTS,
        "pictures": pictures(arguments.seed),
        "provenance": provenance(),
        "seconds": round(time.monotonic() - started, 1),
    }
    if arguments.json is not None:
        write_results(arguments.json, results)
    write_report([results], arguments.report)

    table = Table("claim", "loss", "world", "value", "bound", "holds", "controls that failed, as they must")
    groups: dict[tuple[str, str, str], list[Any]] = {}
    for check in checks:
        claim = check.id.split("/")[0]
        groups.setdefault((claim, check.loss, check.world), []).append(check)
    for (claim, loss, world), members in groups.items():
        claims = [check for check in members if check.role == "claim"]
        controls = [check for check in members if check.role == "control"]
        worst = max(claims, key=lambda check: check.value - check.bound) if claims else None
        failed = sum(not check.holds for check in controls)
        good = all(check.as_expected for check in members)
        table.add_row(
            claim,
            loss,
            world,
            f"{worst.value:.2g}" if worst else "",
            f"{worst.bound:g}" if worst else "",
            "[green]yes[/]" if all(check.holds for check in claims) else "[bold red]NO[/]",
            f"{failed} of {len(controls)}" if good else f"[bold red]{failed} of {len(controls)}[/]",
        )
    out.print(table)
    for check in checks:
        if not check.as_expected:
            said = "does not hold" if check.role == "claim" else "a control that should fail"
            out.print(f"{check.id}: {said}: value {check.value:.3g}, bound {check.bound:g}", markup=False)
    claims = [check for check in checks if check.role == "claim"]
    controls = [check for check in checks if check.role == "control"]
    out.print(
        f"{sum(c.holds for c in claims)} of {len(claims)} claims hold, "
        f"{sum(not c.holds for c in controls)} of {len(controls)} negative controls fail: "
        f"{'verified' if ok else 'NOT VERIFIED'} in {results['seconds']:.0f} s; report: {arguments.report}",
        markup=False,
        highlight=False,
    )
    return 0 if ok else 1


def _run_quickstart(arguments: argparse.Namespace) -> int:
    from experiments import quickstart

    _set_threads(arguments)
    names = {field.name for field in fields(quickstart.Quickstart)}
    spec = quickstart.Quickstart(**{name: value for name, value in vars(arguments).items() if name in names})
    with Meter("quickstart") as meter:
        results = quickstart.run(spec, arguments.out / "trainings", meter.stage)
    return _finish(results, arguments.out)


def _run_real(arguments: argparse.Namespace) -> int:
    import torch

    from experiments import real

    _set_threads(arguments)
    if arguments.device == "auto":
        arguments.device = "cuda" if torch.cuda.is_available() else "cpu"
    if arguments.device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError("device cuda was asked for, but torch sees no CUDA device; use --device cpu")
    names = {field.name for field in fields(real.Real)} - {"rates", "decays", "teacher", "student"}
    spec = real.Real(**{name: value for name, value in vars(arguments).items() if name in names})
    if arguments.dataset == "digits":
        # 8x8 pixels, 1,437 training images: a perceptron on all of them
        train = 0 if arguments.train == real.Real().train else arguments.train
        spec = replace(spec, teacher="mlp", student="mlp", train=train, augment=False)
    spec = replace(
        spec,
        teacher=arguments.teacher or spec.teacher,
        student=arguments.student or spec.student,
        augment=spec.augment and not arguments.no_augment,
        rates={**spec.rates, **_grids(arguments.rates, "--rates", spec.rates)},
        decays={**spec.decays, **_grids(arguments.decays, "--decays", spec.decays)},
    )
    folder = arguments.out or Path(f"runs/real-{spec.dataset}")
    with Meter(f"real {spec.dataset}") as meter:
        results = real.run(spec, arguments.data, folder / "trainings", arguments.device, meter.stage)
    return _finish(results, folder)


def _grids(given: Sequence[str], flag: str, known: Any) -> dict[str, tuple[float, ...]]:
    """``["ce=0.1,0.2"]`` to ``{"ce": (0.1, 0.2)}``."""
    grids = {}
    for item in given:
        arm, _, values = item.partition("=")
        try:
            grids[arm] = tuple(float(value) for value in values.split(","))
        except ValueError:
            raise ValueError(f"{flag} must read LOSS=VALUE[,VALUE...], e.g. ce=0.05,0.1; received {item!r}") from None
        if arm not in known:
            raise ValueError(f"{flag} knows the losses {sorted(known)}, received {arm!r}")
    return grids


def _finish(results: dict[str, Any], folder: Path) -> int:
    """Store results, report and figures beside them; print the summary."""
    from bcpd.report import save_figures, write_report
    from bcpd.report.tables import summary_rows
    from bcpd.runs import write_results

    write_results(folder / "results.json", results)
    write_report([results], folder / "report.html")
    save_figures(results, folder / "figures")
    header, *rows = summary_rows(results)
    table = Table(*header, title=results["title"])
    for row in rows:
        table.add_row(*row)
    out.print(table)
    for note in results.get("notes", []):
        out.print(f"- {note}", markup=False, highlight=False)
    out.print(
        f"{results['seconds']:.0f} s; {folder / 'results.json'}, {folder / 'report.html'}, {folder / 'figures'}",
        markup=False,
        highlight=False,
    )
    return 0


def _sample(arguments: argparse.Namespace) -> int:
    from bcpd.runs.points import find_mixture, write_points

    mixture = find_mixture(arguments.mixture)
    write_points(arguments.out, mixture, arguments.n, arguments.seed)
    out.print(
        f"{arguments.n} points of {arguments.mixture} ({mixture.num_classes} classes, x of shape {mixture.shape}, "
        f"Bayes error {mixture.bayes_error()}): {arguments.out}",
        markup=False,
        highlight=False,
    )
    return 0


def _measure(arguments: argparse.Namespace) -> int:
    from bcpd.files import write_json
    from bcpd.measure import compare_probabilities, distance_of_probabilities
    from bcpd.runs.points import read_points, read_probabilities

    mixture, x, _ = read_points(arguments.points)
    log_bayes = mixture.log_posterior(x)
    q = read_probabilities(arguments.probabilities, *log_bayes.shape)
    measured = {str(arguments.probabilities): distance_of_probabilities(q, log_bayes, seed=arguments.seed)}
    if arguments.versus is not None:
        other = read_probabilities(arguments.versus, *log_bayes.shape)
        measured[str(arguments.versus)] = distance_of_probabilities(other, log_bayes, seed=arguments.seed)
        measured["difference (first minus second, paired)"] = compare_probabilities(q, other, log_bayes)
    table = Table("quantity", *measured, title=f"distance to p* on {len(x)} points")
    for key in next(iter(measured.values())):
        table.add_row(key, *(str(estimates[key]) if key in estimates else "" for estimates in measured.values()))
    out.print(table)
    if arguments.json is not None:
        write_json(
            arguments.json,
            {name: {key: asdict(value) for key, value in estimates.items()} for name, estimates in measured.items()},
        )
    return 0


def _mixtures(arguments: argparse.Namespace) -> int:
    from bcpd.mixtures import FAMILIES

    table = Table("name", "classes", "shape of x", "Bayes error")
    for name, make in FAMILIES.items():
        mixture = make()
        table.add_row(name, str(mixture.num_classes), str(mixture.shape), str(mixture.bayes_error()))
    out.print(table)
    return 0


def _report(arguments: argparse.Namespace) -> int:
    import experiments
    from bcpd.report import save_figures, write_report
    from bcpd.runs import read_results

    places = arguments.results or [Path(experiments.__file__).parent / "results"]
    results = [entry for place in places for entry in read_results(place)]
    write_report(results, arguments.out)
    if arguments.figures is not None:
        for entry in results:
            save_figures(entry, arguments.figures)
    out.print(f"{len(results)} stored results: {arguments.out}", markup=False, highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
