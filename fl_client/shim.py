"""What Flower starts as ``flwr-clientapp``: it hands its arguments to the fork server of this silo and leaves.

Run by path, with the standard library alone, so that it costs a few hundredths of a second. There is no other way to
run a task: without the fork server it fails.
"""

import socket
import sys
import time

PATIENCE_S = 20.0  # a fork server that ended is there again within that time
ANSWER_S = 30.0
STARTED = b"+"


def main(path: str, arguments: list[str]) -> int:
    """Return 0 once the task runs in a process of its own, 1 where it does not."""
    until = time.monotonic() + PATIENCE_S
    with socket.socket(socket.AF_UNIX) as line:
        while True:
            try:
                line.connect(path)
                break
            except OSError as error:
                if time.monotonic() > until:
                    return _fails(f"the silo's fork server does not run ({error.strerror})")
                time.sleep(0.2)
        line.settimeout(ANSWER_S)
        try:
            line.sendall("\0".join(arguments).encode())
            line.shutdown(socket.SHUT_WR)
            answer = line.recv(1)
        except OSError as error:
            return _fails(f"the silo's fork server does not answer ({error.strerror})")
    return 0 if answer == STARTED else _fails("the silo's fork server refused; its log says why")


def _fails(why: str) -> int:
    sys.stderr.write(f"flwr-clientapp: no task was started: {why}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
