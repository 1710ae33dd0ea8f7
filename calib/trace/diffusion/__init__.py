"""Models of diffusion: from their configuration, a step of denoising at a time."""
