"""What processes that work for silos have in common, imported once by the process that they are forked from."""

from __future__ import annotations

import gc
import importlib
from contextlib import suppress

with suppress(ImportError):  # whoever needs what is missing says so
    importlib.import_module("fl_client.work")
gc.freeze()  # what is only read stays shared
