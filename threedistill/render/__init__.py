"""Rendering as pure functions over the kernels: volumes, meshes and the one shading function."""
