"""Files of others, read within bounds: limits, unpacking, what lies beside, foreign libraries apart."""
