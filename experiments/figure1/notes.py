"""What a reader of Figure 1's numbers must know: conventions, deviations from the release, limits."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.figure1.arms import Training
from experiments.figure1.spec import Figure1, world_name
from experiments.figure1.stages import RELEASED_RATE

__all__ = ["notes"]


def notes(spec: Figure1, trained: Sequence[Training], student_rates: Sequence[float]) -> list[str]:
    """Sentences, in the order of the experiment.

    Args:
        trained: the real teachers; an arm that is none of its own is named.
        student_rates: lower, tuned and higher.
    """
    lower, tuned, higher = (f"{rate:g}" for rate in student_rates)
    found = [
        "The predictions and their margins were written before the laptop run, after pilots (paper.md A8) and smoke "
        "runs; the results keep a digest of both.",
        "As released, deviations: the last partial batch is kept (the release drops it), so that "
        f"{round(spec.share * spec.points):,} training points are seen and measured (in the release 4,992 of 5,000); "
        "accuracy is the mean of p* at the predicted class over the test points, not the share of matching labels; "
        f"the learning rate is constant at {RELEASED_RATE:g}, which the release's cosine starts and ends with.",
        "Class means are drawn once, by the root seed: intervals are over data draws in one world, not over worlds.",
    ]
    further = [world for world in spec.worlds[1:] if world not in spec.refused]
    if further and (spec.further_grey, spec.further_teachers) != (spec.grey, spec.teachers):
        found.append(
            f"Released worlds after the first ({world_name(*spec.worlds[0])}) have {sum(spec.further_grey)} grey dots "
            f"in place of {sum(spec.grey)}, and {spec.further_teachers} teachers of a loss in place of "
            f"{spec.teachers}, to save time."
        )
    found += [
        f"Separating experiment: {spec.draws} data draws with {spec.seeds} student seed{'s' * (spec.seeds > 1)} nested "
        "in each; the draw is the unit of every interval. Teachers have one seed a draw; their students and the "
        "student of p* that they are compared with share it. Rates are constant, without decay of rate or weights.",
        f"Teachers' rates were chosen on the grid {', '.join(f'{rate:g}' for rate in spec.rates)} over "
        f"{spec.tuning_draws} tuning draw{'s' * (spec.tuning_draws > 1)}, each loss by its own validation score: at "
        "the best epoch of the path, and for comparisons at the last epoch by the score there.",
        f"All students have one rate, {tuned}, chosen by the validation NLL (its best epoch) of students of label "
        "mixtures at the middle MSE goal. It is that family's rate: flattened rows have smaller gradients, sharpened "
        "rows larger ones. Accuracies at the last epoch are of the same rate, which was not tuned for them. The "
        f"comparisons of (d1) and (d2) were therefore repeated at {lower} and {higher} (first seed of every draw) and "
        "count as decided only where the sign is the same at all three.",
        "Verdicts: a part is judged by a 95 % t-interval over draws, and where one part alone would decide, by a "
        "Bonferroni interval over the parts. A comparison that lost a draw to divergence has no verdict. (b), and the "
        "unbiased half of (c), are identities: they check the code and are no evidence.",
        "squared_bias and variance of a family are over redraws of labels and noise at the training points of a draw; "
        "common_bias_over_draws and common_variance_over_draws of teachers are over teachers of other draws (trained "
        "on other data, in groups of some draws), on 2,000 common fresh points. They are not the same decomposition.",
        "Plain rank correlations reflect the levels that were chosen; those at equal MSE and at equal KL, and the "
        "partial ones, less so.",
        "The perceptron in the contaminated world was not registered; it is shown beside the linear softmax of (f3).",
    ]
    for training in trained:
        for arm in training.arms[1:]:
            found.append(
                f"The arm '{arm}' is the training '{training.name}' (the same loss at the same rate; the mean over "
                "classes is the sum at a K-th of the rate): counted and drawn once."
            )
    return found
