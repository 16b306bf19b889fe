"""The seeded faults, and the check that each must turn red."""

from __future__ import annotations

from bcpd.theory.mutants.harness import Mutant

__all__ = ["MUTANTS"]

MUTANTS: tuple[Mutant, ...] = (
    # ------------------------------------------------------------------------------------------ distances and entropies
    Mutant(
        "squared-distance-halved",
        "bcpd.simplex:squared_distance",
        ".square().sum(-1)",
        ".square().sum(-1) / 2",
        "the squared distance is halved",
        "risk-identity/mse/finite X",
    ),
    Mutant(
        "squared-distance-mean",
        "bcpd.simplex:squared_distance",
        ".square().sum(-1)",
        ".square().mean(-1)",
        "the mean over classes is taken for the sum",
        "known-distance/finite/mse",
    ),
    Mutant(
        "squared-distance-root",
        "bcpd.simplex:squared_distance",
        ".square().sum(-1)",
        ".square().sum(-1).sqrt()",
        "a norm is taken for its square",
        "risk-identity/mse/quadrature 1-D",
    ),
    Mutant(
        "entropy-bits",
        "bcpd.simplex:entropy",
        ".sum(-1)",
        ".sum(-1) / 0.6931471805599453",
        "log2 is taken for the natural logarithm",
        "risk-identity/ce/finite X",
    ),
    Mutant(
        "entropy-sign",
        "bcpd.simplex:entropy",
        "torch.special.entr(rows)",
        "-torch.special.entr(rows)",
        "the entropy has the wrong sign",
        "risk-identity/ce/Monte Carlo 30-D",
    ),
    Mutant(
        "kl-swapped",
        "bcpd.simplex:kl",
        "_pair(p, q)",
        "_pair(q, p)",
        "the arguments of KL are swapped",
        "gradient-identity/ce/finite X",
    ),
    Mutant(
        "kl-bits",
        "bcpd.simplex:kl",
        ".sum(-1)",
        ".sum(-1) / 0.6931471805599453",
        "KL is measured in bits",
        "risk-identity/ce/quadrature 2-D",
    ),
    Mutant(
        "kl-entropy-dropped",
        "bcpd.simplex:kl",
        "torch.special.entr(left) + ",
        "",
        "the cross-entropy is taken for KL",
        "risk-identity/ce/finite X",
    ),
    # --------------------------------------------------------------------------------------------------- teacher losses
)
