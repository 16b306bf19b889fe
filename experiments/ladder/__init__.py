"""The ladder: the paper's claim on images whose p* is exact, given by people, or unknown, by one specification.

Rungs, from the known to the unknown: image mixtures, real images with labels from a frozen network, CIFAR-10 with
people's p*, CIFAR-10 and CIFAR-100 with labels alone.
"""

from experiments.ladder.spec import SCALES, Ladder
from experiments.ladder.tasks import plan, run

__all__ = ["SCALES", "Ladder", "plan", "run"]
