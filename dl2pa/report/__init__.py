"""Showing runs: the published numbers to compare with."""
