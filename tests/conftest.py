"""What the tests share: hypothesis profiles."""

import os

from hypothesis import settings

# The suite draws the same examples each time; the thorough profile draws new ones.
settings.register_profile("default", deadline=None, max_examples=50, derandomize=True)
settings.register_profile("thorough", deadline=None, max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))
