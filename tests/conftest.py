"""Settings of all tests: a machine that is busy is no fault, so no example has a deadline."""

from hypothesis import settings

settings.register_profile("no deadlines", deadline=None)
settings.load_profile("no deadlines")
