"""Figure 1: does the student's accuracy follow the MSE of its teacher to p*, or the cross-entropy?

Two experiments. **As released**: the paper's synthetic figure with the settings of its public code (``paper.md`` A4),
one data draw, label-mixture noise, last-epoch teachers; there MSE and cross-entropy order the grey dots alike, so the
figure cannot separate them. **Separating** (``theory.md`` B14): ten families of targets with levels chosen to match in
MSE or in KL, and real teachers at several stopping times, on fresh data draws with seeds nested in them.

A student sees its targets as they are: cross-entropy to the given rows, T = 1, no label term.
"""

from experiments.figure1.spec import SCALES, Figure1
from experiments.figure1.tasks import plan, run

__all__ = ["SCALES", "Figure1", "plan", "run"]
