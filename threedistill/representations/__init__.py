"""What is optimised: the representations, and what they share (occupancy, backgrounds)."""
