"""How close is a teacher to the Bayes conditional probability p*(x) = P(y | x), and do closer teachers make better
students?"""

__version__ = "0.1.0"
