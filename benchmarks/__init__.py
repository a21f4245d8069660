"""Measurements with a reference in the same run; ratios and medians, never single times."""
