"""The map: when is a teacher trained with MSE closer to p* than one trained with CE, and does its student gain?

One factor at a time around a base cell (the paper's toy, K = 10, d = 30, Bayes error 0.4), then pairs of factors; toy
versions of the paper's semi-supervised and binary settings. Each loss has its own learning rate, tuned by its own
validation score (NLL, Brier) at the best epoch, again by that score at the last epoch for what is compared there, and
again by validation accuracy; all losses have the same steps and stopping rules. Every quantity is the paired difference
MSE minus CE over data draws; draws are the unit of every interval.

Registered before the first run at laptop scale, after pilots (``paper.md`` A8) and smoke runs (``PREDICTIONS``), from
``theory.md`` B10: where the model is misspecified each loss wins its own metric (B10a); where it is well specified and
points are many CE is the closer one (B10b); at the path minimum CE comes slightly closer in the base cell; at a fixed
last epoch the order is that of the effective length of training, so that MSE gains on CE after the best epoch; with a
fitted temperature CE ties with MSE at the last epoch (B10d); the read-out of ``logit_mse`` by softmax is far from p*.
"""

from experiments.when_mse_wins.analysis import reading
from experiments.when_mse_wins.predictions import PREDICTIONS
from experiments.when_mse_wins.spec import SCALES, Cell, Map, Protocol
from experiments.when_mse_wins.tasks import calibrate, plan, run

__all__ = ["PREDICTIONS", "SCALES", "Cell", "Map", "Protocol", "calibrate", "plan", "reading", "run"]
