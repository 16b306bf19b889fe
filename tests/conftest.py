"""One thread a process: small products do not gain from a second, and shared cores lose much by it."""

import torch

torch.set_num_threads(1)
