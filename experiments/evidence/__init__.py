"""Do samples help? Transfer, settings, decoding, hybrid.

- configs: settings and presets of the four experiments
- arms: ways to make a training set
- comparison: the frame: plan, cells, groups, statistics, page
- sites: cohorts, parted by person
- samples: what transfer and settings add to real maps
- fillings: what hybrid puts in the place of lacking images
- transfer, settings, decoding, hybrid: the experiments
- plan: what they would cost
- diagnosis: why samples help or do not
- report: the page
"""
