"""Polypharmacy: reviewing the medication of people of 65 and more."""

from env_server.envs.polypharmacy.family import family

__all__ = ["family"]
