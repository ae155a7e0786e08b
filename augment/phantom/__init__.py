"""Phantoms: labelled cohorts whose truth is known, made from the MNI152 template.

``make_phantom`` writes one as a BIDS derivative. ``anatomy`` draws brains, ``population`` decides
who has which, and ``md``, ``task`` and ``paired`` scan them.
"""

from neuromix.augment.phantom.dataset import KINDS, PhantomConfig, make_phantom

__all__ = ["KINDS", "PhantomConfig", "make_phantom"]
