"""The results in plain words, each sentence with its numbers and the figure, or the table, that has them."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bcpd.power import detectable_effect
from experiments.when_mse_wins.quantities import BY_ID, HEADLINES, SMALL_ACCURACY

__all__ = ["reading"]

Row = Mapping[str, Any]
Sentence = tuple[str, str, str]
"""Topic, text, figure or ``table``."""

POINTS = f"{100 * SMALL_ACCURACY:g} points"
GROUPS = ("gain", "harm", "small", "same", "open")
"""What a cell says of the student's accuracy: shown for MSE, shown for CE, shown but small, no difference of
importance, neither shown."""


def reading(results: Mapping[str, Any]) -> list[dict[str, str]]:
    """Plain sentences, each with its number and its figure; whatever the numbers say."""
    read = _Reading(results)
    sentences = [
        *read.advice(),
        *read.counts(),
        *read.base(),
        *read.along_lines(),
        *read.students(),
        *read.controls(),
        *read.settings(),
        *read.rates(),
        *read.checks(),
    ]
    return [{"topic": topic, "text": text, "figure": figure} for topic, text, figure in sentences]


class _Reading:
    def __init__(self, results: Mapping[str, Any]) -> None:
        self.results = results
        self.base_name = results["base"]
        self.of = {(entry["cell"], entry["quantity"]): entry for entry in results["summary"]}
        self.cells = [cell["name"] for cell in results["cells"]]
        self.noisy = {cell["name"] for cell in results["cells"] if cell["factors"]["label_noise"]}

    def entries(self, quantity: str) -> list[Row]:
        found = [self.of[cell, quantity] for cell in self.cells]
        return [entry for entry in found if entry["mean"] is not None]

    def counts(self) -> Iterator[Sentence]:
        for quantity, what in (
            ("teacher fresh_mse score/best_score", "in MSE to p* on fresh points, at the best own score"),
            ("teacher fresh_kl score/best_score", "in KL to p* on fresh points, at the best own score"),
            ("teacher transfer_mse score/best_score", "in MSE to p* on the transfer inputs, at the best own score"),
            ("teacher fresh_mse last/last", "in MSE to p* on fresh points, at the last epoch"),
            ("teacher fresh_mse score/path_minimum_mse", "in MSE to p*, at the minimum of its path"),
            ("teacher fresh_kl score/path_minimum_kl", "in KL to p*, at the minimum of its path"),
            ("teacher fresh_mse accuracy/best_accuracy", "in MSE to p*, tuned and stopped by accuracy"),
        ):
            entries = self.entries(quantity)
            mse, ce, none = (_count(entries, verdict) for verdict in ("mse closer", "ce closer", "none"))
            text = (
                f"Of {len(entries)} cells the MSE teacher is closer to p* {what} in {mse}, the CE teacher in {ce}; "
                f"in {len(entries) - mse - ce - none} no difference was seen ({_status(quantity)})"
            )
            yield "teacher", text + (f"; {none} have no verdict, for draws were lost." if none else "."), "table"

    def base(self) -> Iterator[Sentence]:
        for metric, name, figure in (("mse", "MSE", "map-lines"), ("kl", "KL", "map-lines-kl")):
            parts = []
            for state, words in (
                ("score/best_score", "best score"),
                ("last/last", "last epoch"),
                (f"score/path_minimum_{metric}", "path minimum"),
                ("accuracy/best_accuracy", "best accuracy"),
            ):
                parts.append(f"{words} {_interval(self.of[self.base_name, f'teacher fresh_{metric} {state}'])}")
            text = (
                f"In the base cell MSE minus CE of the teacher's {name} to p* on fresh points is: {'; '.join(parts)}."
            )
            yield "teacher", text, figure
        last, same_rate = (self.of[self.base_name, f"teacher fresh_mse {by}/last"] for by in ("last", "score"))
        text = (
            f"The base cell's last epochs differ by {_interval(last)} in MSE to p* at the rates tuned for the last "
            f"epoch, and by {_interval(same_rate)} at those tuned for the best epoch."
        )
        yield "teacher", text, "table"

    def along_lines(self) -> Iterator[Sentence]:
        quantity = "teacher fresh_mse score/best_score"
        for line in self.results["lines"]:
            entries = [self.of[cell, quantity] for cell in line["cells"]]
            known = [
                (_level(level), e) for level, e in zip(line["levels"], entries, strict=True) if e["mean"] is not None
            ]
            if not known:
                continue
            said = []
            for loss in ("mse", "ce"):
                levels = [level for level, e in known if e["verdict"] == f"{loss} closer"]
                if levels:
                    said.append(f"{loss.upper()} is shown closer at {', '.join(levels)}")
            if len(said) == 0:
                said = ["at no level is either loss shown closer"]
            elif any(e["verdict"] not in ("mse closer", "ce closer") for _, e in known):
                said.append("at the others nothing is shown")
            (low_level, low), (high_level, high) = (
                min(known, key=lambda pair: pair[1]["mean"]),
                max(known, key=lambda pair: pair[1]["mean"]),
            )
            text = (
                f"Along {line['label']}, at the best score: {'; '.join(said)}. The difference runs from "
                f"{_interval(low)} at {low_level} to {_interval(high)} at {high_level} (extremes, selected, "
                f"unadjusted)."
            )
            yield "teacher", text, "map-lines"

    def students(self) -> Iterator[Sentence]:
        for state, words in (
            ("score/best_score", "best-score"),
            ("last/last", "last-epoch"),
            ("accuracy/best_accuracy", "best-accuracy"),
            ("score/path_minimum_mse", "path-minimum"),
        ):
            quantity = f"student fresh_accuracy {state}"
            entries = self.entries(quantity)
            if not entries:
                continue
            better, worse = (_count(entries, f"{arm} better") for arm in ("mse", "ce"))
            highest, lowest = max(entries, key=lambda e: e["mean"]), min(entries, key=lambda e: e["mean"])
            text = (
                f"Students of {words} MSE teachers are more accurate than those of CE teachers in {better} of "
                f"{len(entries)} cells and less accurate in {worse} ({_status(quantity)}). The largest difference in "
                f"favour of MSE is {_points(highest)} ({highest['cell']}), in favour of CE {_points(lowest)} "
                f"({lowest['cell']}): extremes, selected, unadjusted."
            )
            yield "student", text, "table"
        quantity = "student fresh_mse score/best_score"
        own = self.entries(quantity)
        mse, ce = (_count(own, f"{arm} closer") for arm in ("mse", "ce"))
        text = (
            f"The student itself is closer to p* (MSE, fresh points) after an MSE teacher in {mse} of {len(own)} "
            f"cells, after a CE teacher in {ce} ({_status(quantity)})."
        )
        yield "student", text, "table"
        parts = [
            f"{words} {_points(self.of[self.base_name, f'student fresh_accuracy score/best_score{own}'])}"
            for words, own in (("best score", ""), ("last", ", own last"), ("best accuracy", ", own best_accuracy"))
        ]
        text = f"In the base cell MSE minus CE of the student's accuracy, by its own stopping rule: {'; '.join(parts)}."
        yield "student", text, "table"
        rates = [
            f"{entry['rate']:g}{' (tuned)' if entry['tuned'] else ''} {_points(entry)}"
            for entry in self.results["student_rates"]
        ]
        text = (
            f"The same by the student's learning rate, tuned on rows that no teacher made, and a step of the grid "
            f"below and above: {'; '.join(rates)}."
        )
        yield "student", text, "table"

    def group(self, cell: str) -> str | None:
        """What a cell says of the student's accuracy; under label noise, of that for the clean labels."""
        shown = self.of[cell, "student fresh_accuracy score/best_score"]
        measured = self.of[cell, "student clean_accuracy score/best_score"] if cell in self.noisy else shown
        if measured["mean"] is None or shown["verdict"] == "none":
            return None
        flat = max(-measured["low"], measured["high"]) < SMALL_ACCURACY
        if shown["verdict"] == "no difference seen":
            return "same" if flat else "open"
        return "small" if flat else "gain" if shown["verdict"] == "mse better" else "harm"

    def advice(self) -> Iterator[Sentence]:
        """When to train the teacher with MSE, when it does not matter, when it harms: by the student's accuracy."""
        groups: dict[str, list[str]] = {group: [] for group in GROUPS}
        for cell in self.cells:
            group = self.group(cell)
            if group is not None:
                groups[group].append(cell)
        total = sum(map(len, groups.values()))
        for group, words in (
            ("gain", "Train the teacher with MSE: its student is shown to be more accurate"),
            ("harm", "Training the teacher with MSE harms: its student is shown to be less accurate"),
        ):
            own = sorted(groups[group], key=lambda cell: -abs(self._accuracy(cell)["mean"]))
            listed = "; ".join(f"{cell} ({_points(self._accuracy(cell))})" for cell in own[:6])
            more = f"; and {len(own) - 6} more cells" if len(own) > 6 else ""
            where = f"in {len(own)} of {total} cells: {listed}{more}" if own else f"in none of {total} cells"
            yield "advice", f"{words} {where} ({_status(HEADLINES[1])}).", "table"
        text = (
            f"A difference is shown but below {POINTS}, by its whole interval, in {len(groups['small'])} cells; none "
            f"is shown and the interval lies within {POINTS} in {len(groups['same'])}: there the loss does not "
            f"matter. In {len(groups['open'])} of {total} neither was shown"
        )
        spreads = [(e["sd"], e["n"]) for e in map(self._accuracy, groups["open"]) if e["sd"]]
        if spreads:
            seen = statistics.median(detectable_effect(sd, draws) for sd, draws in spreads)
            text += (
                f", where a difference of {100 * seen:.2g} points would have been seen four times in five (median, "
                "before Holm)"
            )
        text += "."
        yield "advice", text, "table"
        for line in self.results["lines"]:
            yield "advice", self._of_factor(line), "map-students"
        teachers = [e for e in self.entries("teacher fresh_mse score/best_score") if e["ce"]]
        if teachers:
            low, high = (extreme(teachers, key=lambda e: e["mean"] / e["ce"]) for extreme in (min, max))
            text = (
                f"Relative to the CE teacher's own distance the MSE teacher's ranges from "
                f"{100 * low['mean'] / low['ce']:+.2g} % ({low['cell']}) to {100 * high['mean'] / high['ce']:+.2g} % "
                f"({high['cell']}); extremes, selected, unadjusted."
            )
            yield "advice", text, "table"

    def _accuracy(self, cell: str) -> Row:
        found: Row = self.of[cell, f"student {'clean' if cell in self.noisy else 'fresh'}_accuracy score/best_score"]
        return found

    def _of_factor(self, line: Row) -> str:
        levels: dict[str | None, list[str]] = {}
        for level, cell in zip(line["levels"], line["cells"], strict=True):
            levels.setdefault(self.group(cell), []).append(_level(level))
        words = {
            "gain": "train the teacher with MSE at {}",
            "harm": "MSE harms at {}",
            "small": f"a difference is shown but below {POINTS} at {{}}",
            "same": "the loss does not matter at {}",
            "open": "not shown either way at {}",
            None: "no verdict at {}, for draws were lost",
        }
        said = [text.format(", ".join(levels[group])) for group, text in words.items() if group in levels]
        return f"By {line['label']}, for the student's accuracy: {'; '.join(said)}."

    def controls(self) -> Iterator[Sentence]:
        table = {
            (e["cell"], e["arm"], e["teacher_checkpoint"], e["role"], e["metric"], e["against"]): e
            for e in self.results["controls"]
        }
        for cell in (cell for cell in self.results["cells"] if cell["controls"]):
            name, figure = cell["name"], cell["controls_figure"]
            for checkpoint, words in (("last", "last epoch"), ("best_score", "best score")):
                plain = table.get((name, "mse", checkpoint, "teacher", "fresh_mse", "ce"))
                both = table.get((name, "ce_t_nll", checkpoint, "teacher", "fresh_mse", "ce"))
                tempered = table.get((name, "ce_t_nll", checkpoint, "teacher", "fresh_mse", "mse"))
                if plain and both and tempered:
                    text = (
                        f"{name}, {words}: MSE minus CE of the teacher's MSE to p* is {_interval(plain)}; a "
                        f"temperature fitted on held-out NLL moves CE by {_interval(both)}."
                    )
                    yield "temperature", text, figure
                    text = f"{name}, {words}: CE + T minus MSE of the same is {_interval(tempered)}."
                    yield "temperature", text, "table"
            arms = [
                e
                for e in self.results["controls"]
                if (e["cell"], e["teacher_checkpoint"], e["role"], e["metric"], e["against"])
                == (name, "best_score", "student", "fresh_accuracy", "ce")
                and e["p_holm"] is not None
                and e["arm"] != "bayes"
            ]
            if arms:
                yield "controls", f"{name}, at the best score, by the student's accuracy: {_winners(arms)}.", figure

    def settings(self) -> Iterator[Sentence]:
        for setting in self.results["settings"]:
            parts = []
            for level, cell in zip(setting["levels"], setting["cells"], strict=True):
                entry = self.of[cell, "student fresh_accuracy score/best_score"]
                if entry["mean"] is not None:
                    parts.append(f"{_level(level)}: {_points(entry)}, {entry['verdict']}")
            text = (
                f"{setting['title']}: the student's accuracy, MSE minus CE, by {setting['label']}: {'; '.join(parts)}."
            )
            yield "settings", text[0].upper() + text[1:], "map-settings"

    def rates(self) -> Iterator[Sentence]:
        rates = [rate for rate in self.results["rates"] if rate["role"] == "teacher" and rate["arm"] in ("ce", "mse")]
        edges = [rate for rate in rates if rate["edge"]]
        text = f"{len(edges)} of {len(rates)} tuned rates of CE and MSE teachers lie on the edge of the grid"
        if edges:
            text += ": " + "; ".join(f"{r['cell']} {r['arm']} by {r['tuned_by']} {r['rate']:g}" for r in edges[:8])
            text += f"; and {len(edges) - 8} more" if len(edges) > 8 else ""
        yield "rates", text + ".", "table"
        for rate in (rate for rate in rates if rate["cell"] == self.base_name):
            near = []
            for side in ("below", "above"):
                gap = rate[side]
                if gap is not None and gap["difference"] is not None:
                    spread = "" if gap["stderr"] is None else f" (SE {gap['stderr']:.2g})"
                    near.append(f"at {gap['rate']:g} it is {gap['difference']:.2g}{spread} worse")
            within = rate["within_one_stderr"]
            tail = "" if within is None else f"; {within} of the {rate['tried'] - 1} other rates lie within one SE"
            text = (
                f"In the base cell {rate['arm'].upper()} tuned by {_RULES[rate['tuned_by']]} has the rate "
                f"{rate['rate']:g}, score {rate['score']:.4g} (tuning draws: {rate['draws']}); "
                f"{', '.join(near) or 'it had no neighbour'}{tail}."
            )
            yield "rates", text, "table"
        epochs = self.results["best_epochs"]
        limited = [f"{e['cell']} {e['arm']} ({e['at_end']} of {e['n']})" for e in epochs if e["budget_limited"]]
        parts = [f"{e['arm'].upper()} {e['median']:g} of {e['epochs']}" for e in epochs if e["cell"] == self.base_name]
        text = f"The median best epoch in the base cell is {', '.join(parts)}. "
        text += (
            f"The best epoch is the last one in half the draws or more, so that the budget ended the training, in "
            f"{len(limited)} of {len(epochs)} teachers: {'; '.join(limited[:12])}"
            f"{f'; and {len(limited) - 12} more' if len(limited) > 12 else ''}."
            if limited
            else f"In none of {len(epochs)} teachers is the best epoch the last one in half the draws."
        )
        yield "rates", text, "table"

    def checks(self) -> Iterator[Sentence]:
        equality = self.results["equality"]
        released = equality["released_scale"]
        text = (
            f"MSE divided by K, trained at K times the rate and a K-th of the decay, gives the MSE teacher's "
            f"probabilities within {equality['largest_difference']:.1g} (float64, {equality['draws']} draws); at the "
            f"same rate its MSE to p* differs by {released['mean']:+.3g} on the mean of the {released['n']} draws."
        )
        yield "checks", text, "table"
        text = (
            f"The chance of any false verdict among the 2 headline quantities of {len(self.cells)} cells is held at "
            "5 % (Holm); all other quantities are exploratory."
        )
        yield "checks", text, "table"
        planner = self.results["planner"]
        for entry in planner["quantities"]:
            if entry["quantity"] in HEADLINES:
                needed = ", ".join(
                    f"{e['effect']:g}: {e['draws_median']} ({e['draws_median_adjusted']})" for e in entry["effects"]
                )
                text = (
                    f"Draws that show a difference in {entry['label']} ({BY_ID[entry['quantity']].role}) with power "
                    f"{planner['power']:g} at the median spread {entry['sd_median']:.2g}, in brackets at level 0.05 / "
                    f"{planner['cells']} cells: {needed}."
                )
                yield "planner", text, "table"


_RULES = {
    "score": "its own score at the best epoch",
    "last": "its own score at the last epoch",
    "accuracy": "validation error",
}


def _winners(arms: Sequence[Row]) -> str:
    """Who beats plain CE, which counts as 0, after Holm's correction over the arms."""
    better = sorted((e for e in arms if e["p_holm"] < 0.05 and e["mean"] > 0), key=lambda e: -e["mean"])
    worse = sorted((e for e in arms if e["p_holm"] < 0.05 and e["mean"] < 0), key=lambda e: e["mean"])
    said = [f"shown better than CE: {_list(better)}" if better else f"none of {len(arms)} arms is shown better than CE"]
    if worse:
        said.append(f"shown worse: {_list(worse)}")
    return f"{'; '.join(said)} (Holm over the arms)"


def _list(arms: Sequence[Row]) -> str:
    return "; ".join(f"{arm['label']} {_points(arm)}" for arm in arms)


def _count(entries: Sequence[Row], verdict: str) -> int:
    return sum(entry["verdict"] == verdict for entry in entries)


def _status(quantity: str) -> str:
    return "headline, Holm, 5 %" if quantity in HEADLINES else "exploratory, Holm, 5 %"


def _level(level: Any) -> str:
    return f"{level:g}" if isinstance(level, int | float) else str(level)


def _interval(entry: Row) -> str:
    if entry["mean"] is None:
        return "not measured"
    return f"{entry['mean']:+.3g} [{entry['low']:+.3g}, {entry['high']:+.3g}]"


def _points(entry: Row) -> str:
    if entry["mean"] is None:
        return "not measured"
    mean, low, high = (100 * entry[name] for name in ("mean", "low", "high"))
    return f"{mean:+.2f} points [{low:+.2f}, {high:+.2f}]"
