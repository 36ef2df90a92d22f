"""From an optimised representation to files that other programs open."""
