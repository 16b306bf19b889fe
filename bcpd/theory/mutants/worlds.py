"""Mixtures and their Bayes errors: what could be wrong in them, and the check that must turn red."""

from __future__ import annotations

from bcpd.theory.mutants.harness import Mutant

__all__ = ["MUTANTS"]

MUTANTS: tuple[Mutant, ...] = (
    # ------------------------------------------------------------------------------------------------------- mixtures
    Mutant(
        "log-determinant-dropped",
        "bcpd.mixtures.elliptical:EllipticalMixture._log_scales",
        "return diagonal.log().sum(-1)",
        "return 0 * diagonal.log().sum(-1)",
        "the log-determinant is dropped",
        "posterior-calibration/gaussian-classwise",
    ),
    Mutant(
        "quadratic-not-halved",
        "bcpd.mixtures.gaussian:GaussianMixture._log_components",
        "means.square().sum(-1) / 2",
        "means.square().sum(-1)",
        "the quadratic term is not halved",
        "posterior-calibration/gaussian-2d-shared",
    ),
    Mutant(
        "priors-off-by-one",
        "bcpd.mixtures.gaussian:GaussianMixture._log_posterior_rows",
        "self.priors.log()",
        "self.priors.log().roll(1)",
        "every class has the prior of its neighbour",
        "posterior-calibration/gaussian-2d-shared",
    ),
    Mutant(
        "priors-forgotten",
        "bcpd.mixtures.gaussian:GaussianMixture._log_posterior_rows",
        " + self.priors.log().to(x.device)",
        "",
        "the priors are forgotten",
        "posterior-calibration/gaussian-2d-shared",
    ),
    Mutant(
        "variance-for-deviation",
        "bcpd.mixtures.elliptical:_colour",
        "noise * factor",
        "noise * factor.square()",
        "the noise has the variance for its standard deviation",
        "posterior-calibration/gaussian-isotropic-30d",
    ),
    Mutant(
        "cholesky-transposed",
        "bcpd.mixtures.elliptical:_colour",
        "noise @ factor.mT",
        "noise @ factor",
        "the Cholesky factor is transposed",
        "posterior-calibration/gaussian-2d-shared",
    ),
    Mutant(
        "noise-transposed",
        "bcpd.mixtures.wrappers:_Channel._log_posterior_rows",
        "enumerate(self.transition.T)",
        "enumerate(self.transition)",
        "the noise matrix is transposed",
        "posterior-calibration/label-noise",
    ),
    Mutant(
        "noise-row-dropped",
        "bcpd.mixtures.wrappers:_Channel._log_posterior_rows",
        "column.nonzero()[:, 0]",
        "column.nonzero()[:1, 0]",
        "all but the first source of a noisy label are dropped",
        "posterior-calibration/label-noise",
    ),
    Mutant(
        "finite-draws-unweighted",
        "bcpd.mixtures.finite:FiniteMixture.sample_given",
        "self.weights * self.rows[:, k]",
        "self.rows[:, k]",
        "points are drawn without their weights",
        "posterior-calibration/finite",
    ),
    Mutant(
        "bayes-error-of-the-worst",
        "bcpd.mixtures.base:Mixture._monte_carlo_bayes_error",
        "self.posterior(x).amax(-1)",
        "self.posterior(x).amin(-1)",
        "the least likely class is taken for the likeliest",
        "bayes-error/finite",
    ),
)
