"""Votes, estimates and intervals: what could be wrong in them, and the check that must turn red."""

from __future__ import annotations

from bcpd.theory.mutants.harness import Mutant

__all__ = ["MUTANTS"]

MUTANTS: tuple[Mutant, ...] = (
    # ------------------------------------------------------------------------------------------------------- votes
    Mutant(
        "votes-not-debiased",
        "bcpd.measure.votes:squared_norm_from_votes",
        "(total * share.square().sum(-1) - 1) / (total - 1)",
        "share.square().sum(-1)",
        "the plug-in is taken for the unbiased estimate",
        "vote-norm/finite X/K=3, m=5",
    ),
    Mutant(
        "votes-off-by-one",
        "bcpd.measure.votes:squared_distance_from_votes",
        "/ (total - 1)",
        "/ total",
        "m is taken for m - 1",
        "vote-distance/finite X/K=3, m=5",
    ),
    # ---------------------------------------------------------------------------------------------------- measurement
    Mutant(
        "accuracy-of-the-teacher",
        "bcpd.measure.pointwise:pointwise",
        "bayes.gather(-1, log_q.argmax",
        "q.gather(-1, log_q.argmax",
        "a teacher's own confidence is taken for its accuracy",
        "known-distance/finite/excess_risk",
    ),
    Mutant(
        "calibration-weights-forgotten",
        "bcpd.measure.moments:Moments.add",
        "mean = share @ values / weight",
        "mean = values.mean(0)",
        "the weights of the points are forgotten",
        "known-distance/finite/mse",
    ),
    Mutant(
        "variance-for-error",
        "bcpd.measure.moments:Moments.estimates",
        "(self._scatter / (self.count - 1) / self.count).sqrt()",
        "self._scatter / (self.count - 1) / self.count",
        "the variance is taken for the standard error",
        "standard-errors/finite X/mse",
    ),
    Mutant(
        "spread-for-error",
        "bcpd.measure.moments:Moments.estimates",
        " / self.count).sqrt()",
        ").sqrt()",
        "the standard deviation is taken for the standard error",
        "standard-errors/finite X/kl",
    ),
    Mutant(
        "degrees-of-freedom",
        "bcpd.stats:mean_interval",
        "/ (n - 1) / n",
        "/ n / n",
        "the spread is divided by n, not n - 1",
        "interval-coverage/three normal units/mean_interval",
    ),
    Mutant(
        "one-sided-test",
        "bcpd.stats:paired_difference",
        "2 * _upper_tail",
        "_upper_tail",
        "a one-sided p-value is taken for the two-sided one",
        "interval-coverage/three normal units/paired_difference",
    ),
)
