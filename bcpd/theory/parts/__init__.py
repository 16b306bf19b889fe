"""Distances between distributions, and what they are made of: calibration, grouping, bias, variance, information."""
