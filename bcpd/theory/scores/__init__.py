"""Proper scores and Theorem 1, improper losses with their minimisers, and whether a loss of one's own is proper."""
