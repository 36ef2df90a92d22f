"""USD: packages written without its library; meshes and splats read through it."""
