"""Preparation: raw or preprocessed datasets into the form that the samplers eat.

:func:`prepare` does a whole dataset; :func:`restore` and :func:`expand` lead back, by the records
in its sidecars. The steps it is made of work on arrays: mean diffusivity
(:mod:`~neuromix.augment.prepare.diffusion`), events and windows
(:mod:`~neuromix.augment.prepare.bold`), segments (:mod:`~neuromix.augment.prepare.segments`) and
the common space (:mod:`~neuromix.augment.prepare.space`).
"""

from neuromix.augment.prepare.pipeline import Prepared, prepare
from neuromix.augment.prepare.segments import expand
from neuromix.augment.prepare.space import restore

__all__ = ["Prepared", "expand", "prepare", "restore"]
