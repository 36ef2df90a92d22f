"""The judge's view of assets and of the prior's samples, and what the world itself would score."""
