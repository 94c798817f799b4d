"""Chosen values: one YAML file for every run worth repeating, and the strict reader of such files.

Knows nothing of what the values mean; the dataclass that a command hands to `load` does.
"""
