"""Checkpoints in from other projects, and out to the Hub and to other runtimes."""
