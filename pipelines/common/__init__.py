"""Modules shared by several pipelines."""
