"""Providers of images, one file each."""
