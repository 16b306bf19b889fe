"""The result of :func:`bcpd.bench.toy.run` in words and Markdown tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["markdown"]


def markdown(result: Mapping[str, Any]) -> str:
    """Tables of the variants, of R, of the sizes, and sentences about the whole figure and the ratios."""
    clock = result["clock"]
    base = {row["includes"]: row[clock] for row in result["rows"] if row["variant"] == "released loop"}
    main = [
        (
            row["variant"],
            row["includes"],
            f"{row['ms']:.2f}",
            f"{row['min_ms']:.2f}",
            f"{row['cpu_ms']:.2f}" if row["cores"] == 1 else "",
            f"{base[row['includes']] / row[clock if row['cores'] == 1 else 'ms']:.1f}"
            if row["includes"] in base
            else "",
            f"{row['gflops']:.1f}",
            f"{row['share_of_matmul']:.0%}",
        )
        for row in result["rows"]
    ]
    header = ("variant", "includes", "ms a model-epoch", "least", "CPU ms", "x released", "GFLOP/s", "of matmul")
    counts = sorted({row["models"] for row in result["replicas"]})
    times = {(row["models"], row["includes"]): f"{row['ms']:.2f}" for row in result["replicas"]}
    by_replicas = [(includes, *(times[count, includes] for count in counts)) for includes in ("train", "released")]
    sizes = [
        (row["variant"], f"{row['ms']:.2f}", f"{row['time_ratio']:.2f}", f"{row['flop_ratio']:.2f}")
        for row in result["cells"]
    ]
    figure = result["figure1"]
    parts = [
        _table(header, main),
        "Included: " + "; ".join(f"{name}: {what}" for name, what in result["includes"].items()) + ".",
        _table(("ms a model-epoch, R =", *map(str, counts)), by_replicas),
        _table(("sizes (steps only)", "ms", "time ratio", "FLOP ratio"), sizes),
        f"Time grows as FLOP to the power {result['slope']:.2f}.",
        *(
            f"{row['models']} replicas with their metrics: {row['bytes'] / 2**20:.0f} MiB more, "
            f"{row['bytes_a_model'] / 2**20:.2f} each."
            for row in result["memory"]
            if row["bytes"] is not None
        ),
        f"Figure 1 ({figure['models']} models x {figure['epochs']} epochs, tests on {figure['test_points']} points): "
        f"{figure['seconds']:.0f} s in {figure['processes']} process(es), {figure['share_of_matmul']:.0%} of their "
        f"matrix throughput; released loop {figure['released_seconds']:.0f} s ({figure['released_is']}): "
        f"{figure['ratio']:.1f} times.",
        f"A core does {result['per_core_ratio']:.1f} times the work of the released loop with its metrics "
        f"({result['train_ratio']:.1f} times the steps alone; {result['general_ratio']:.1f} times by autograd), "
        f"{result['lean_ratio']:.1f} times that of the lean loop. Metrics at the path's points take "
        f"{result['path_share']:.0%} of the time, the released ones {result['released_metrics_share']:.0%}.",
        f"{result['rounds']} rounds, 1 thread; matrix products reach {result['matmul_gflops']:.0f} GFLOP/s"
        + ("; the machine was busy: ratios on one core are of CPU time." if result["busy"] else "."),
    ]
    return "\n\n".join(parts)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
