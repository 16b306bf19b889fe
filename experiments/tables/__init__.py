"""The paper's tables and its Figure 2: students of CE and MSE teachers by eleven methods, each a named specification.

Teachers are trained once and shared by content; a run that was stopped is a complete table of fewer seeds.
"""

from experiments.tables.planning import plan
from experiments.tables.spec import EXPERIMENTS, SCALES, Tables, specification
from experiments.tables.tasks import collect, run

__all__ = ["EXPERIMENTS", "SCALES", "Tables", "collect", "plan", "run", "specification"]
