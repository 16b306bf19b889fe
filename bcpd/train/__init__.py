"""One trainer for teachers and students, toys and images."""

from bcpd.train.checkpoint import CheckpointError
from bcpd.train.evaluation import EvaluationSet, MeasuredSets, Metrics, PathMetrics, log_probabilities
from bcpd.train.execution import Execution
from bcpd.train.fit import Progress, fit, fit_side_by_side
from bcpd.train.fitted import Fitted, ReadOut
from bcpd.train.one_step import followed_gradient
from bcpd.train.plan import Plan, plan
from bcpd.train.ranks import from_environment
from bcpd.train.recipe import Constant, Cosine, Recipe, Schedule, Step
from bcpd.train.split import validation_part
from bcpd.train.teacher_table import TeacherTable

__all__ = [
    "CheckpointError",
    "Constant",
    "Cosine",
    "EvaluationSet",
    "Execution",
    "Fitted",
    "MeasuredSets",
    "Metrics",
    "PathMetrics",
    "Plan",
    "Progress",
    "ReadOut",
    "Recipe",
    "Schedule",
    "Step",
    "TeacherTable",
    "fit",
    "fit_side_by_side",
    "followed_gradient",
    "from_environment",
    "log_probabilities",
    "plan",
    "validation_part",
]
