"""Stateless numerical operations: a native kernel where one is built, a torch reference twin everywhere."""
