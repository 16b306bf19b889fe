"""``bcpd bench``: how fast the package is, against what one would use instead."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from rich.table import Table

from bcpd.cli.console import err, out
from bcpd.progress import Meter

__all__ = ["add_bench"]

Report = Callable[[str, int, int], None]


def add_bench(verbs: Any) -> None:
    """Add the verb to the parser."""
    bench = verbs.add_parser("bench", help="measure speed and memory", description="Variants take turns.")
    benchmarks = bench.add_subparsers(dest="benchmark", required=True, metavar="BENCHMARK")
    _add_posterior(benchmarks)
    _add_toy(benchmarks)
    _add_images(benchmarks)
    _add_real(benchmarks)


def _add_common(parser: argparse.ArgumentParser, rounds: int, written: str = "") -> None:
    parser.add_argument("--rounds", type=int, default=rounds, help="timed turns of every variant; default: %(default)s")
    parser.add_argument("--json", type=Path, metavar="PATH", help=f"write what was measured here{written}")


def _measured(arguments: argparse.Namespace, measure: Callable[[Report], dict[str, Any]]) -> dict[str, Any]:
    """What a benchmark finds, its progress shown; written where that was asked for."""
    from bcpd.files import write_json

    with Meter(f"bench {arguments.benchmark}") as meter:
        results = measure(meter.stage)
    if arguments.json is not None:
        write_json(arguments.json, results)
    return results


def _add_posterior(benchmarks: Any) -> None:
    parser = benchmarks.add_parser("posterior", help="exact p* of many points, against scikit-learn")
    parser.add_argument("--points", type=int, default=10_000_000, help="default: %(default)s, which need 9 GB")
    _add_common(parser, rounds=3)
    parser.set_defaults(run=_posterior)


def _posterior(arguments: argparse.Namespace) -> int:
    from bcpd.bench import posterior

    _print_posterior(_measured(arguments, partial(posterior.run, arguments.points, arguments.rounds)))
    return 0


def _print_posterior(results: dict[str, Any]) -> None:
    table = Table("variant", "points", "s", "CPU s", "best s", "million points a CPU second", title="p*, one thread")
    for row in [*results["rows"], *({**row, "variant": f"full, {row['variant']}"} for row in results["full"])]:
        speed = row["points"] / row["cpu"] / 1e6
        times = (f"{row[name]:.3f}" for name in ("seconds", "cpu", "best"))
        table.add_row(row["variant"], f"{row['points']:,}", *times, f"{speed:.1f}")
    out.print(table)
    layouts = Table("K", "dtype", "columns, ns a point", "rows, ns a point", "taken", "over the better")
    for cell in results["layouts"]:
        times = (f"{cell[name]:.0f}" for name in ("columns", "rows"))
        layouts.add_row(str(cell["classes"]), cell["dtype"], *times, cell["chosen"], f"{cell['relative']:.2f}")
    out.print(layouts)
    for line in _sentences(results):
        out.print(line, markup=False, highlight=False)


def _sentences(results: dict[str, Any]) -> list[str]:
    floor, machine = results["floor"], results["before"]
    memory = (
        f"{name} {'unknown' if value is None else f'{value:.1f}'}" for name, value in results["extra_megabytes"].items()
    )
    errors = (f"{name} {value:.1e}" for name, value in results["errors"].items())
    growth = (f"{cell['dtype']} {cell['points']:,}: {cell['relative']:.2f}" for cell in results["growth"])
    return [
        f"over scikit-learn in float64: float64 {results['sklearn_ratio_float64']:.1f} times, float32 "
        f"{results['sklearn_ratio_float32']:.1f} times; float32 over scikit-learn in float32 "
        f"{results['sklearn_single_ratio']:.1f} times",
        f"one full covariance: float64 {results['full_ratio_float64']:.1f} times, float32 "
        f"{results['full_ratio_float32']:.1f} times",
        f"MB beyond points and output: {', '.join(memory)}",
        f"largest error of a probability: {', '.join(errors)}",
        f"time a point, relative to {results['points']:,} points: {', '.join(growth)}",
        f"products and traffic at the machine's rates ({floor['matmul_flops'] / 1e9:.0f} GFLOP/s, "
        f"{floor['copy_bytes'] / 1e9:.0f} GB/s) take {floor['product_seconds'] + floor['traffic_seconds']:.3f} s in "
        f"float32, {floor['share']:.0%} of the time",
        f"{machine['cpu']}, 1 thread, load {machine['load']}, torch {machine['packages']['torch']}, scikit-learn "
        f"{machine['packages']['scikit-learn']}; ratios of {results['clock']} time"
        + (" (the machine was busy)" if results["busy"] else ""),
    ]


def _add_toy(benchmarks: Any) -> None:
    parser = benchmarks.add_parser("toy", help="a model-epoch and the whole of Figure 1, against the released loop")
    parser.add_argument(
        "--scale",
        choices=("laptop", "smoke"),
        default="laptop",
        help="laptop: the released sizes, some 10 minutes on 2 quiet cores; smoke: under a minute, small sizes whose "
        "ratios say little; default: %(default)s",
    )
    parser.add_argument("--processes", type=int, default=2, help="of the whole figure; default: %(default)s")
    parser.add_argument("--device", default="cpu", help="cpu or cuda; default: %(default)s")
    _add_common(parser, rounds=7)
    parser.set_defaults(run=_toy)


def _toy(arguments: argparse.Namespace) -> int:
    from bcpd.bench import toy
    from bcpd.bench.toy_text import markdown

    own = (arguments.rounds, arguments.scale, arguments.device, arguments.processes)
    out.print(markdown(_measured(arguments, partial(toy.run, *own))), markup=False, highlight=False)
    return 0


def _add_images(benchmarks: Any) -> None:
    parser = benchmarks.add_parser(
        "images", help="images a second: training small convolutional networks, augmentation, image worlds"
    )
    parser.add_argument(
        "--scale",
        choices=("laptop", "smoke"),
        default="laptop",
        help="laptop: some 10 minutes on 2 cores; smoke: seconds, small sizes that say little; default: %(default)s",
    )
    _add_common(parser, rounds=5)
    parser.set_defaults(run=_images)


def _images(arguments: argparse.Namespace) -> int:
    from bcpd.bench import images

    _print_images(_measured(arguments, partial(images.run, arguments.rounds, arguments.scale)))
    return 0


def _print_images(results: dict[str, Any]) -> None:
    training = Table("network", "images", "batch", "threads", "variant", "first", "last", "GFLOP/s", title="images a s")
    rows = {(*_cell(row), row["variant"], row["format"]): row for row in results["training"]}
    for key, last in rows.items():
        if last["format"] == "channels_last":
            first = rows[*key[:-1], "channels_first"]
            speeds = (f"{row['images_per_second']:,.0f}" for row in (first, last))
            training.add_row(*map(str, key[:-1]), *speeds, f"{last['gflops']:.0f} ({last['share_of_matmul']:.0%})")
    out.print(training)
    ratios = Table("network", "images", "batch", "threads", "last / first", "fit / loop", "crop-flip / none", "clock")
    for cell in results["cells"]:
        found = (f"{cell[name]:.2f}" for name in ("channels_last_ratio", "loop_ratio", "augmented_ratio"))
        ratios.add_row(*map(str, _cell(cell)), *found, cell["clock"])
    out.print(ratios)
    loads = Table("images", "augmentation", "thousand a s from uint8", "from float32")
    speeds_of = {(r["size"], r["augment"], r["stored"]): r["images_per_second"] for r in results["augmentation"]}
    for size, augment in dict.fromkeys(key[:2] for key in speeds_of):
        found = (f"{speeds_of[size, augment, stored] / 1e3:.0f}" for stored in ("uint8", "float32"))
        loads.add_row(size, augment, *found)
    out.print(loads)
    worlds = Table("world", "images", "drawn a s", "p* a s", "both a s", "x training")
    for row in results["sampling"]:
        speeds = (f"{row[name]:,.0f}" for name in ("sampled_per_second", "answered_per_second", "both_per_second"))
        worlds.add_row(row["world"], row["size"], *speeds, f"{row['over_training']:.1f}")
    out.print(worlds)
    machine = results["machine"]
    out.print(
        f"{machine['cpu']}, load {machine['load']}, torch {machine['packages']['torch']}; {results['rounds']} rounds, "
        f"medians; matrix products reach {results['matmul_gflops']:.0f} GFLOP/s on a thread"
        + (" (the machine was busy: one thread by CPU time, two by the wall)" if results["busy"] else ""),
        markup=False,
        highlight=False,
    )


def _cell(row: dict[str, Any]) -> tuple[str, str, int, int]:
    return row["net"], row["size"], row["batch"], row["threads"]


def _add_real(benchmarks: Any) -> None:
    parser = benchmarks.add_parser(
        "real", help="images a second of real networks: teachers and KD students, against a loop like RepDistiller's"
    )
    parser.add_argument("--device", default="cpu", help="cpu, with all cores, or cuda; default: %(default)s")
    parser.add_argument(
        "--scale",
        choices=("smoke", "laptop", "full"),
        help="smoke: a minute, small sizes that say little; laptop: some 10 minutes on 2 quiet cores (more where the "
        "CPU has no bfloat16); full: one CUDA card, in pieces of under 10 minutes: repeat the command with one PATH "
        "until nothing is left out; default: laptop, on cuda full",
    )
    parser.add_argument(
        "--cells",
        nargs="+",
        metavar="NAME",
        help="only these, such as resnet20 resnet56:resnet20 programme; default: all that PATH has not",
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="CIFAR-100's folder; default: random images")
    _add_common(parser, rounds=5, written=", after every cell; a file that is there already is continued")
    parser.set_defaults(run=_real)


def _real(arguments: argparse.Namespace) -> int:
    from bcpd.bench import real
    from bcpd.bench.real_text import markdown
    from bcpd.files import read_json, write_json

    path: Path | None = arguments.json
    scale = arguments.scale or ("full" if arguments.device == "cuda" else "laptop")
    earlier = read_json(path) if path is not None and path.exists() else None
    keep = None if path is None else partial(write_json, path)
    own = (arguments.rounds, scale, arguments.device, arguments.data, arguments.cells)
    results = _measured(arguments, partial(real.run, *own, earlier=earlier, keep=keep))
    if earlier is not None and len(results["pieces"]) == len(earlier["pieces"]):
        err.print(f"all of it was in {path} already; name --cells to measure them anew", markup=False, highlight=False)
    out.print(markdown(results), markup=False, highlight=False)
    return 1 if results["failed"] else 0
