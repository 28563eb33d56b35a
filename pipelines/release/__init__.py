"""Conversion of foreign checkpoints, export to other runtimes, and publication on the Hub."""
