"""The published design: a plain DiT over mosaics of latents of slices.

- plain: how it is fitted
- dit: the network, fresh or with the published weights, and low-rank updates of it
- latents, slice_autoencoder: slices to latents and back
"""
