"""One page for many runs: a grid of assets, a leaderboard, plots, and everything about each run, without a network."""

from threedistill.reports.write import write_report

__all__ = ["write_report"]
