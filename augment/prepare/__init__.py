"""Preparation: raw or preprocessed datasets into the form that the samplers eat.

:func:`prepare` does a whole dataset. The steps it is made of work on arrays: mean diffusivity
(:mod:`~neuromix.augment.prepare.diffusion`), events and windows
(:mod:`~neuromix.augment.prepare.bold`), segments (:mod:`~neuromix.augment.prepare.segments`) and
the common space (:mod:`~neuromix.augment.prepare.space`).
"""

from neuromix.augment.prepare.bold import cut, hcp_events, read_events, windows
from neuromix.augment.prepare.diffusion import fit_md, read_gradients
from neuromix.augment.prepare.pipeline import Prepared, prepare
from neuromix.augment.prepare.segments import expand, segment, segment_bold, segment_dwi
from neuromix.augment.prepare.space import place, register, restore, to_template

__all__ = [
    "Prepared",
    "cut",
    "expand",
    "fit_md",
    "hcp_events",
    "place",
    "prepare",
    "read_events",
    "read_gradients",
    "register",
    "restore",
    "segment",
    "segment_bold",
    "segment_dwi",
    "to_template",
    "windows",
]
