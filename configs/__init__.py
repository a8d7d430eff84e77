"""Experiments as Python functions, and the registry that finds them by name."""

from gesso.configs.registry import describe, experiment, names

__all__ = ["describe", "experiment", "names"]
