"""Hub and silos in network namespaces of their own: nothing but the hub's one port lies between them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from benchmarks.federation import Federation

pytestmark = pytest.mark.superlink
MACHINES = {"hub": "10.77.3.1", "as-1": "10.77.3.2", "ne-1": "10.77.3.3"}
BRIDGE = "bhasha0"


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def within(name: str) -> tuple[str, ...]:
    return ("ip", "netns", "exec", f"bhasha-{name}")


@pytest.fixture
def machines() -> Iterator[dict[str, tuple[str, ...]]]:
    """Three namespaces on one bridge, each with its own address and loopback."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and iproute2")
    try:
        ip("netns", "add", "bhasha-probe")
        ip("netns", "del", "bhasha-probe")
    except subprocess.CalledProcessError:
        pytest.skip("this kernel or container does not allow network namespaces")
    ip("link", "add", BRIDGE, "type", "bridge")
    ip("link", "set", BRIDGE, "up")
    try:
        for number, (name, address) in enumerate(MACHINES.items()):
            space, end = f"bhasha-{name}", f"bhasha-v{number}"
            ip("netns", "add", space)
            ip("link", "add", end, "type", "veth", "peer", "name", "eth0", "netns", space)
            ip("link", "set", end, "master", BRIDGE, "up")
            for words in (
                ("addr", "add", f"{address}/24", "dev", "eth0"),
                ("link", "set", "eth0", "up"),
                ("link", "set", "lo", "up"),
            ):
                subprocess.run([*within(name), "ip", *words], check=True)
        yield {name: within(name) for name in MACHINES}
    finally:
        for name in MACHINES:
            subprocess.run(["ip", "netns", "del", f"bhasha-{name}"], check=False)
        ip("link", "del", BRIDGE)


def test_hub_and_silos_with_addresses_of_their_own_end_where_one_machine_does(
    machines, small, simulate, tmp_path
):
    study = small(tmp_path / "local", rounds=2, simulation__silos=2)
    local = simulate(study)
    address = f"{MACHINES['hub']}:8443"
    real = Federation(tmp_path, study.model_copy(update={"home": ""}), address, machines)
    try:
        real.begin()
        for name in real.silos:
            real.join(name, threads="1")
        real.run()
        assert real.finished()["adapter_sha256"] == local["adapter_sha256"]
    finally:
        real.end()
