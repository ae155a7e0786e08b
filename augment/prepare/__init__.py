"""Preparation: raw or preprocessed datasets into the form that the samplers eat.

:func:`prepare` does a whole dataset. The steps it is made of work on arrays: mean diffusivity
(:mod:`~augment.prepare.diffusion`), events and windows (:mod:`~augment.prepare.bold`), segments
(:mod:`~augment.prepare.segments`) and the common space (:mod:`~augment.prepare.space`).
"""

from augment.prepare.bold import cut, hcp_events, read_events, windows
from augment.prepare.diffusion import fit_md, read_gradients
from augment.prepare.pipeline import Prepared, prepare
from augment.prepare.segments import expand, segment, segment_bold, segment_dwi
from augment.prepare.space import place, register, restore, to_template

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
