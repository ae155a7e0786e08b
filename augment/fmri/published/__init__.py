"""Parts of the published design: VQ-GAN, and latents of stacked frames."""
