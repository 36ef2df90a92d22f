"""The benchmark of rules on a world with ground truth: its parts, its measurements, its report."""
