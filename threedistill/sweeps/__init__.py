"""Many runs at once: the plan on disk, one job by its number, Hydra's launchers, and the tables."""
