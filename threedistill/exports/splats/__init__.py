"""Clouds of splats between our form and a file's: checks, placement, harmonics, and the formats of splats alone."""
