"""Rows and seeds in, one table out: plan, run, tabulate."""
