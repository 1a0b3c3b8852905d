"""What runs where the data is: a silo's training, its memory, and the only way out."""

import logging
import os

# Nothing that a silo imports may report home: no telemetry, no look-up of newer versions, no download counts.
for name, value in {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_UPDATE_DOWNLOAD_COUNTS": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}.items():
    os.environ.setdefault(name, value)

# PEFT imports it wherever it is installed, and it warns of kernels that only some processors need.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

# It also marks functions for torch.compile: that alone loads the compiler, 1.6 s and 40 MB of every process. Nothing is
# compiled here.
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")

# Threads that wait for one another sleep at once. By default they spin first, and beside another program that wants the
# same cores (a second silo, or whoever sits at this machine) a step of two threads then takes ten times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
