"""SampleBank: synthetic subjects on disk.

- bank: the samples: draw, replay, verify
- filling: many processes fill one, and any may die
- quotas: which labels samples shall have
- filters: which samples are turned away, and why
"""
