"""How close is a teacher to the Bayes conditional probability p*(x) = P(y | x), and do closer teachers make better
students?

Read the folders in the order data flow through them: ``mixtures``, ``data``, ``nets``, ``losses``, ``distill``,
``train``, ``measure``, ``theory``, ``runs``, ``report``.
"""

from bcpd.estimate import Estimate
from bcpd.train import Fitted, Recipe, fit

__all__ = ["Estimate", "Fitted", "Recipe", "fit"]

__version__ = "0.1.0"
