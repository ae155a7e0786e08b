"""Metrics: how synthetic images compare with real ones, always beside real against real.

``realism`` asks whether samples are told from people and ``privacy`` whether they give people away.
For audits, ``anatomy`` measures volumes in physical units, ``features`` compares sets of volumes
through a feature map, and ``fidelity`` puts these and what labels show in one table. Trained
networks come in as callables.

Runs of task fMRI (``task_runs``) are judged by ``neuro``, whose
:class:`~neuromix.augment.metrics.neuro.NeuroJudge` brings together the effects of conditions
(``glm``, ``response_maps``) and the noise (``time_series``), which ``summaries`` takes from each
run once.
"""
