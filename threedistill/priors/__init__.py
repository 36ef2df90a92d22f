"""Frozen diffusion models, analytic stand-ins for them, the spaces they see and the noise paths they know."""
