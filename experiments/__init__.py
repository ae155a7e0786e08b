"""Experiments and the command ``neuromix``."""
