"""One thread a process: small products do not gain from a second, and shared cores lose much by it."""

import torch
from hypothesis import settings

torch.set_num_threads(1)

# the same examples every time: a test that fails, fails for everybody
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")
