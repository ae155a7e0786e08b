"""Samplers: diffusers pipelines that are fitted on a cohort and make subjects of given labels."""
