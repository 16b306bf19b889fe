"""Which figures belong to a result, with what to look at in each."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from bcpd.report.chapters import Described, chapters, described
from bcpd.report.claim_figures import claim_figure, margin_figure
from bcpd.report.figure1 import FIGURES as FIGURE1
from bcpd.report.illustration import Illustration, illustration
from bcpd.report.ladder import ladder_illustrations
from bcpd.report.map_figures import map_illustrations
from bcpd.report.margins import checks_of
from bcpd.report.method_figures import method_illustrations
from bcpd.report.quantities import DEFAULT_CHECKPOINT, checkpoint_name
from bcpd.report.rate_figure import rate_figure
from bcpd.report.run_figures import distance_path_figure, path_figure, student_figure
from bcpd.report.sentences import sentence
from bcpd.report.style import save_figure
from bcpd.report.summary_figures import arms_figure, differences_figure
from bcpd.report.teacher_search_figures import teacher_illustrations
from bcpd.report.theory_figures import identity_figure, minimiser_figure, posterior_figure, projection_figure

__all__ = ["Illustration", "illustrations", "save_figures"]

VALIDATION = ("validation_accuracy", "validation_brier", "validation_nll")


def illustrations(results: Mapping[str, Any]) -> list[Illustration]:
    """All figures of one result, in the order of the page.

    Args:
        results: of any kind in :data:`bcpd.runs.results.KINDS`.
    Raises:
        ValueError: an unknown kind.
    """
    makers: Mapping[str, Callable[[Mapping[str, Any]], list[Illustration]]] = {
        "verify": _verify,
        "quickstart": _quickstart,
        "real": _real,
        "figure1": _figure1,
        "when-mse-wins": map_illustrations,
        "ladder": ladder_illustrations,
        "tables": method_illustrations,
        "teachers": teacher_illustrations,
    }
    kind = results.get("kind")
    if not isinstance(kind, str) or kind not in makers:
        raise ValueError(f"results must have a kind among {sorted(makers)}, received {kind!r}")
    return makers[kind](results)


def save_figures(results: Mapping[str, Any], folder: Path | str, without: Collection[str] = frozenset()) -> list[Path]:
    """Write every figure that the results hold data for into a folder, as SVG and PNG; returns the paths.

    Args:
        without: names of figures to leave out.

    Raises:
        ValueError: an unknown kind.
        OSError: the folder cannot be written.
    """
    written: list[Path] = []
    for item in illustrations(results):
        if item.figure is not None and item.name not in without:
            written.extend(save_figure(item.figure, Path(folder) / item.name))
    return written


PLACES: Mapping[str, tuple[str, ...]] = {
    "posterior": ("posterior-calibration",),
    "identity": ("risk-identity",),
    "projection": ("own-metric",),
    "minimisers": ("C3", "minimiser-is-bayes"),
}
"""The claims that the pictures of every verification belong to: the first of these ids or numbers that there is."""

MARGINS = (
    "Margins of its checks",
    "A point a check, at its value over its bound: the claim must lie left of the black line, its wrong versions "
    "(crosses) right of it. What lies at an edge lies there or beyond: no error at all on the left, a gap of the wrong "
    "sign on the right.",
)


def _verify(results: Mapping[str, Any]) -> list[Illustration]:
    checks = checks_of(results.get("checks") or [])
    claims = [claim for _, _, inside in chapters(described(results, checks)) for claim in inside]
    found = _common_pictures(results, claims)
    illustrated = {item.claim for item in found if item.figure is not None}
    pictures = results.get("claim_pictures") or {}
    for claim in claims:
        own = [check for check in checks if check.claim == claim.id]
        name = f"verify-{claim.id}"
        if claim.id in pictures:
            picture = pictures[claim.id]
            words = (str(picture.get("title", claim.heading)), _caption(picture))
            found.append(illustration(name, *words, partial(claim_figure, picture), claim.id))
        elif own and claim.id not in illustrated:
            found.append(illustration(name, *MARGINS, partial(margin_figure, own), claim.id))
    return found


def _caption(picture: Mapping[str, Any]) -> str:
    """What to look at in a claim's picture, and in its panels where they say it themselves."""
    captions = [picture.get("caption", ""), *(panel.get("caption", "") for panel in picture.get("panels") or [])]
    return " ".join(dict.fromkeys(sentence(str(caption)) for caption in captions if caption))


def _common_pictures(results: Mapping[str, Any], claims: Sequence[Described]) -> list[Illustration]:
    """The pictures of every verification, but for those of claims that were not asked for."""
    pictures = results.get("pictures") or {}
    if not pictures and (results.get("mixture") or results.get("loss")):
        return []
    figures: Sequence[tuple[str, str, str, Callable[[Mapping[str, Any]], Figure]]] = (
        (
            "posterior",
            "The object itself: p*(x)",
            "The colour at x mixes the classes' colours by p*(k | x), known exactly. In pure colours the label is "
            "nearly certain; where colours blend, points of several classes mix and even the best rule errs. A teacher "
            "is close to p* if it paints this map, not only if it finds the black lines.",
            posterior_figure,
        ),
        (
            "identity",
            "Theorem 1: the label risk is a constant plus the distance to p*",
            "Each point is a random network, far from p*. The risk on labels (horizontal) is the entropy of p* plus "
            "the network's distance to p* (vertical): coloured points lie on the diagonal. The wrong versions do not: "
            "without the constant all points drop by the same amount, and with the arguments of KL swapped they "
            "scatter. Swapping changes nothing for the square, which is symmetric.",
            identity_figure,
        ),
        (
            "projection",
            "Where p* is out of reach, each loss wins its own metric",
            "Class 0 has a few outliers on the far side of class 1, so p* falls again on the right, which no linear "
            "softmax can do. CE pays dearly for confident mistakes and flattens its whole curve for the outliers; MSE "
            "gives them up and follows p* where most of the data lies. The bars compare their distances to p*.",
            projection_figure,
        ),
        (
            "minimisers",
            "Where each loss leads with infinite data",
            "One p* with three classes, in a corner of the probability triangle. Proper losses (CE, MSE, spherical) "
            "end exactly at p*. Label smoothing and focal loss are pulled towards uniform, further as their parameter "
            "grows; MAE runs to the corner of the likeliest class. The square loss on raw logits finds p*, but only "
            "its projection reads it out: softmax of those logits is far away.",
            minimiser_figure,
        ),
    )

    def of(key: str, make: Callable[[Mapping[str, Any]], Figure]) -> Callable[[], Figure]:
        return lambda: make(pictures[key])

    found = []
    for key, title, caption, make in figures:
        at = [claim.id for place in PLACES[key] for claim in claims if place in (claim.id, claim.number)]
        if at or not results.get("only"):
            found.append(illustration(f"verify-{key}", title, caption, of(key, make), (at or [""])[0]))
    return found


def _quickstart(results: Mapping[str, Any]) -> list[Illustration]:
    summary = results.get("summary") or []
    chosen = checkpoint_name(DEFAULT_CHECKPOINT)
    return [
        illustration(
            "quickstart-distance-paths",
            "Teachers' distance to p* along training",
            "After every epoch, mean over draws with a 95 % t band. Dashed: the transfer inputs, on which the student "
            "will see the teacher and which the teacher was trained on; solid: fresh points. Markers (open on the "
            f"transfer inputs) stand at the mean epoch of the {chosen}. A line that turns up again belongs to teachers "
            "that leave p* as they memorise labels: then the epoch at which a teacher is taken decides as well. The "
            "axes are cut above the second half of training.",
            lambda: distance_path_figure(results),
        ),
        illustration(
            "quickstart-rates",
            "How much hangs on the learning rate",
            "Distance to p* on fresh points of every rate tried, on the draws set aside for tuning (points: draws; "
            "ring: the rate chosen by the loss's own validation score at its best epoch). Where a line climbs on the "
            "right at the last epoch but not at the best score, a larger rate acts as a longer training, and which "
            "loss ends closer at the last epoch depends on the rates that happened to be chosen.",
            lambda: rate_figure(results),
        ),
        illustration(
            "quickstart-students",
            "Does a closer teacher make a better student?",
            f"One point a draw and loss: the student's accuracy against its teacher's distance to p*, both at the "
            f"{chosen}. Lines join the CE and the MSE teacher of the same draw; if closeness decided, they would all "
            "fall towards the right. Large markers are means with 95 % t-intervals both ways; the band is the student "
            "that was taught by p* itself.",
            lambda: student_figure(results),
        ),
        _differences("quickstart-differences", summary, "draw"),
    ]


def _real(results: Mapping[str, Any]) -> list[Illustration]:
    summary = results.get("summary") or []
    name = f"real-{results.get('dataset', 'data')}"
    return [
        illustration(
            f"{name}-paths",
            "Training of the teachers",
            "Validation accuracy and scores after every epoch, mean over seeds with a 95 % t band; thin lines are the "
            f"seeds. The marker stands at the mean epoch of the {checkpoint_name(DEFAULT_CHECKPOINT)}. Curves that "
            "still fall at the right edge belong to a teacher that was not trained to its end.",
            lambda: path_figure(results, VALIDATION),
        ),
        illustration(
            f"{name}-arms",
            "Every arm, with its interval",
            "Means over seeds with 95 % t-intervals. Arms share their seeds, so overlapping intervals here do not mean "
            "that a difference is uncertain: that is the next figure.",
            lambda: arms_figure(summary),
        ),
        _differences(f"{name}-differences", summary, "seed"),
    ]


def _figure1(results: Mapping[str, Any]) -> list[Illustration]:
    return [illustration(name, title, caption, partial(make, results)) for name, title, caption, make in FIGURE1]


def _differences(name: str, summary: Sequence[Mapping[str, Any]], unit: str) -> Illustration:
    return illustration(
        name,
        "Paired differences, MSE arm minus CE arm",
        f"What the two arms of a {unit} share cancels. 95 % t-intervals; an interval that crosses the black line is no "
        "evidence for either. Points in colour favour the arm of that colour (blue circle: CE, vermilion square: MSE).",
        lambda: differences_figure(summary),
    )
