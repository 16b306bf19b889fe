"""Teachers: the setting that each loss needs at the recipe's length, and which teacher is then closer to p*.

Trained once and kept by content, in the folder and layout of :mod:`experiments.tables`.
"""

from experiments.teachers.spec import SCALES, Teachers, specification
from experiments.teachers.tasks import collect, plan, run

__all__ = ["SCALES", "Teachers", "collect", "plan", "run", "specification"]
