"""The embedded city: a world of latent fields, and what cameras and writers make of it."""
