"""Parts of the published design: the autoencoder of slices, the pretrained DiT."""
