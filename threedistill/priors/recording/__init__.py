"""Pipelines of diffusers watched while they draw: what was seen, what it means, and its repetition."""
