"""Build a city's dataset from its recipe: cost plan, build, status."""
