"""Task fMRI: runs of any length, their responses, and TaskFMRISampler.

- sampler, config: the pipeline and its presets
- runs: what it is fitted to
- linear_run, closed_form: people and their runs in closed form
- run_prior, windows: what that says of a window of frames, and the network that learns the rest
- responses: pieces of runs after an event, for decoders
- published: VQ-GAN, stacked frames
"""
