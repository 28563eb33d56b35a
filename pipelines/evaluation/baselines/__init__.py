"""Published systems to compare with, one module each."""
