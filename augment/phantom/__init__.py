"""Phantoms: labelled cohorts whose truth is known, made from the MNI152 template.

``make_phantom`` writes one as a BIDS derivative. ``anatomy`` and ``folding`` draw the brains of
versions 1 and 2, ``population`` decides who has which, ``haemodynamics`` how blood answers, and
``md``, ``task`` (version 2: ``adapting``) and ``paired`` scan them.
"""

from neuromix.augment.phantom.dataset import KINDS, PhantomConfig, make_phantom

__all__ = ["KINDS", "PhantomConfig", "make_phantom"]
