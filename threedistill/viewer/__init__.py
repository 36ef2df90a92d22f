"""Looking at runs and files in a browser, through viser: what a run does while it runs, and assets that are done."""
