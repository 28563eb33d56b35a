"""Properties are checked by what they find, not by how long a shared machine takes."""

from hypothesis import settings

settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
