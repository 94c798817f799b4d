"""Families of environments, one folder each, found by being there and independent of one another."""
