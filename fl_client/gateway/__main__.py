"""``python -m fl_client.gateway SILO_FOLDER [--port N]``: run the silo gateway until SIGTERM.

It prints ``ready PORT`` once it listens.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from fl_client import serving
from fl_client.gateway import server


def main() -> int:
    """Run, and return the exit code: 2 where it cannot start as things are."""
    parser = argparse.ArgumentParser(prog="python -m fl_client.gateway", description=__doc__)
    parser.add_argument("silo", type=Path, help="the silo's folder")
    parser.add_argument("--port", type=int, default=0, help="on loopback; 0 takes a free one")
    given = parser.parse_args()
    return serving.run(server.open_(given.silo, given.port))


if __name__ == "__main__":
    sys.exit(main())
