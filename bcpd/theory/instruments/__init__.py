"""Checks of the instruments themselves: mixtures, Bayes errors, intervals, votes, and the released code's readings."""
