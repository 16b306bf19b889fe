"""The command line: verify claims, run experiments, sample and measure, rebuild the report.

The only module that parses arguments or prints.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from rich.table import Table

from bcpd import __version__
from bcpd.cli.bench import add_bench
from bcpd.cli.console import add_threads, err, out, set_threads
from bcpd.cli.ladder import add_compare
from bcpd.cli.studies import add_draws, add_studies
from bcpd.cli.tables import add_plan, add_tables
from bcpd.cli.teachers import add_teachers
from bcpd.cli.verify import add_verify
from bcpd.cli.weights import add_import_weights
from bcpd.progress import Meter
from bcpd.runs import SweepError

__all__ = ["main"]


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
    except (ValueError, OSError, SweepError) as error:
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

    add_verify(verbs)
    add_bench(verbs)

    run = verbs.add_parser("run", help="run an experiment")
    experiments = run.add_subparsers(dest="experiment", required=True, metavar="EXPERIMENT")
    _add_quickstart(experiments)
    _add_real(experiments)
    add_studies(experiments)
    add_tables(experiments)
    add_teachers(experiments)
    add_compare(verbs)
    add_plan(verbs)
    add_import_weights(verbs)

    add_draws(verbs)

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
    add_threads(parser, None)
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
    add_threads(parser, None)
    parser.set_defaults(run=_run_real)


def _run_quickstart(arguments: argparse.Namespace) -> int:
    from experiments import quickstart

    set_threads(arguments)
    names = {field.name for field in fields(quickstart.Quickstart)}
    spec = quickstart.Quickstart(**{name: value for name, value in vars(arguments).items() if name in names})
    with Meter("quickstart") as meter:
        results = quickstart.run(spec, arguments.out / "trainings", meter.stage)
    return _finish(results, arguments.out)


def _run_real(arguments: argparse.Namespace) -> int:
    import torch

    from experiments import real

    set_threads(arguments)
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
