"""Metrics: how synthetic images compare with real ones, always beside real against real.

``realism`` asks whether samples are told from people, ``privacy`` whether they give people away,
``label_reading`` whether they show their labels; ``features`` has the distances of sets, and
``anatomy`` looks at values as they are.

Runs of task fMRI (``task_runs``) are judged by ``neuro``, whose
:class:`~neuromix.augment.metrics.neuro.NeuroJudge` brings together the effects of conditions
(``glm``, ``response_maps``) and the noise (``time_series``), which ``summaries`` takes from each
run once.
"""
