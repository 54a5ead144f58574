"""Settings that every test runs under."""

import os

from hypothesis import settings

# No deadline: no test times anything, and a busy machine is no failure. In CI the same examples are
# drawn every time, so that a red run can be repeated.
settings.register_profile("srwm", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("srwm")
