"""Kernels that several environments share."""
