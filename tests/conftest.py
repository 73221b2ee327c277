"""What every test stands on."""

import os

from hypothesis import settings

# Threads that wait by spinning take a core each: on a small machine the pictures become many times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# A busy machine is no failure, and the same commit gives the same result.
settings.register_profile("steady", deadline=None, derandomize=True)
settings.load_profile("steady")
