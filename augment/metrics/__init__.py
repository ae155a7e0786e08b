"""Metrics: how synthetic volumes compare with real ones, always beside real against real.

``anatomy`` measures volumes in physical units, ``features`` compares sets of volumes through a
feature map, and ``fidelity`` judges images, labels and everything at once
(:func:`augment.metrics.fidelity.fidelity_table`). Trained networks come in as callables.
"""
