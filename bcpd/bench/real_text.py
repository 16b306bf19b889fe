"""The result of :func:`bcpd.bench.real.run` in words and Markdown tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

__all__ = ["goal_line", "markdown"]


def markdown(result: Mapping[str, Any]) -> str:
    """Tables of the cells and of the means, and sentences about tables, the programme, the goals and the machine."""
    cuda = result["device"] == "cuda"
    launched = ("launches", "kernels") if cuda else ("operators",)
    header = ("training", "variant", "images/s", "spread", "x baseline", "TFLOP/s" if cuda else "GFLOP/s", "of peak")
    rows = [
        (
            _arrow(row["cell"]),
            row["variant"],
            f"{row['images_per_second']:,.0f}",
            f"{(row['slowest'] - row['best']) / row['seconds']:.0%}",
            f"{row['ratio']:.2f}",
            f"{row['gflops'] / 1e3:.1f}" if cuda else f"{row['gflops']:.1f}",
            f"{row['share_of_peak']:.1%}",
            *("" if row[name] is None else f"{row[name]:,.0f}" for name in launched),
            *(("" if row["memory_bytes"] is None else f"{row['memory_bytes'] / 2**20:,.0f}",) if cuda else ()),
        )
        for row in result["rows"]
    ]
    taught = [row["cell"] for row in result["rows"] if row["teacher"] is None]
    nets = len(set(taught))
    means = [(variant, f"{ratio:.2f}") for variant, ratio in result["geometric_means"].items()]
    parts = [
        _table((*header, *(f"{name} a step" for name in launched), *(("MiB",) if cuda else ())), rows) if rows else "",
        _table((f"trained on labels, {nets} nets", "x baseline, geometric mean"), means) if nets > 1 else "",
        "\n".join(map(_failure, result["failed"])),
        *(
            f"{_arrow(cell['cell'])}: the table of 50,000 images, {cell['table_bytes'] / 2**30:.1f} GiB, takes "
            f"{cell['fill_seconds']:,.0f} s to fill (from a few images); in the timed rows a stand-in filled it."
            for cell in result["cells"]
            if cell["fill_seconds"] is not None
        ),
        *_programme(result["programme"]),
        "\n".join(goal_line(goal) for goal in result["goals"]),
        f"Left out for want of time: {', '.join(result['left_out'])} (the same command and file measure them)."
        if result["left_out"]
        else "",
        _conditions(result),
    ]
    return "\n\n".join(part for part in parts if part)


def goal_line(goal: Mapping[str, Any]) -> str:
    """A goal, what was found, and ``reached`` or ``not reached``; or ``not measured``."""
    bound = f"Goal: {goal['goal']}, at {goal['kind']} {goal['bound']:g} {goal['unit']}"
    if goal["reached"] is None:
        return f"{bound}: not measured."
    return f"{bound}: {'reached' if goal['reached'] else 'not reached'}, {goal['value']:.2f} ({goal['by']})."


def _failure(row: Mapping[str, Any]) -> str:
    """By the first line of the error."""
    why = next(iter(row["error"].splitlines()), "no reason given")
    return f"Not measured: {_arrow(row['cell'])}, {row['variant']}: {why}"


def _programme(found: Mapping[str, Any] | None) -> list[str]:
    if found is None:
        return []
    minutes, measured = found["minutes"], min(len(seconds) for seconds in found["parts"].values())
    epochs = (f"{part.replace('_', ' ')} {median(seconds):.2f} s" for part, seconds in found["parts"].items())
    options = [found["execution"]["precision"], *(name for name in ("graphs", "compile") if found["execution"][name])]
    return [
        f"{_arrow(found['name'])}, CE and MSE teachers and {found['students'] // 2} students each, {found['epochs']} "
        f"epochs of {found['images']:,} images ({', '.join(options)}): {minutes['alone']:.1f} minutes one after "
        f"another, {minutes['side_by_side']:.1f} side by side. Projected from the medians of {measured} epochs of each "
        f"part ({', '.join(epochs)}) and two tables, {found['fill_seconds']:.0f} s each; nothing is measured after "
        f"epochs."
    ]


def _conditions(result: Mapping[str, Any]) -> str:
    baseline, machine, pieces = result["baseline"], result["machine"], result["pieces"]
    rates = (f"{precision} {rate:,.1f}" for precision, rate in pieces[-1]["matmul_gflops"].items())
    cudnn = "cuDNN's benchmark on, " if baseline["cudnn_benchmark"] else ""
    loads = ", ".join("unknown" if piece["load"] is None else f"{piece['load']:.1f}" for piece in pieces)
    return (
        f"The baseline: {baseline['workers']} workers, {baseline['precision']}, {cudnn}convolutions in "
        f"{baseline['convolutions']}, {baseline['memory_format']}; fit is {result['memory_format']}. "
        f"Images: {result['data']}, {result['images']:,} an epoch in batches of {result['batch']}; {result['rounds']} "
        f"rounds in turns, medians of wall time; spread: slowest less fastest round. Peak: matrix products, GFLOP/s: "
        f"{', '.join(rates)}. {machine['device_name']}, {machine['cpu']}, {result['threads']} thread(s), "
        f"{len(pieces)} piece(s), load at their start {loads}, torch {machine['packages']['torch']}"
        + ("; the machine was busy." if result["busy"] else ".")
    )


def _arrow(cell: str) -> str:
    return cell.replace(":", " -> ")


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
