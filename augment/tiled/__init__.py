"""Maps of any scalar as mosaics of slices: TiledMDSampler.

- sampler, config: the pipeline and its presets
- codec, stacks: volumes as stacks of slices, and what is fitted to them in closed form
- mosaic: slices beside one another
- published: the plain tiled DiT over latents of slices
"""
