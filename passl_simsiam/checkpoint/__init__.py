"""Checkpoints that survive, weight files that cannot bite, and conversion that proves itself."""
