"""Captions that several models agree on and the image supports."""
