"""Image providers, one module each."""
