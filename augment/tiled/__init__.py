"""Maps as mosaics of slices: TiledMDSampler, its codec and its network."""
