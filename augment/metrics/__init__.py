"""Metrics: how synthetic images compare with real ones, always beside real against real.

``anatomy`` measures volumes in physical units, ``features`` compares sets of volumes through a
feature map, and ``fidelity`` judges images, labels and everything at once
(:func:`neuromix.augment.metrics.fidelity.fidelity_table`). Trained networks come in as callables.

Runs of task fMRI (``task_runs``) are judged by ``neuro``, whose
:class:`~neuromix.augment.metrics.neuro.NeuroJudge` brings together the effects of conditions
(``glm``, ``response_maps``) and the noise (``time_series``), which ``summaries`` takes from each
run once.
"""
