"""Teachers of the toy world: the embedded diffusion model, the world's own pictures, the truth at every camera."""
