"""Where a hub is reached: ``host:port``, a DNS name, an IPv4 address or an IPv6 address in brackets."""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Annotated

from pydantic import AfterValidator

from fl_client.config import ConfigError

LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
HOST = re.compile(rf"(?:{LABEL}\.)*(?!\d+\Z){LABEL}")
PORT = re.compile(r"[0-9]{1,5}")


def split(address: str) -> tuple[str, int]:
    """Return the host (an IPv6 address without its brackets) and the port; raises ``ConfigError``."""
    host, _, port = address.rpartition(":")
    if not PORT.fullmatch(port) or int(port) > 65535:
        raise ConfigError(
            f"{address!r} is no address; write host:port, such as hub.example.org:8443"
        )
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    if not (is_ip(host) and bracketed == (":" in host)) and not (
        HOST.fullmatch(host) and len(host) <= 253
    ):
        raise ConfigError(f"{address!r} has no usable host; give a DNS name or an IP address")
    return host, int(port)


def is_ip(host: str) -> bool:
    """Return whether a host is an IP address rather than a name."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return "%" not in host


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine and nothing else."""
    return host == "localhost" or (is_ip(host) and ip_address(host).is_loopback)


def _reachable(address: str) -> str:
    host, port = split(address)
    if not port or (is_ip(host) and ip_address(host).is_unspecified):
        raise ConfigError(f"{address!r} cannot be reached from elsewhere; give the public address")
    return address


def _listening(address: str) -> str:
    split(address)
    return address


Public = Annotated[str, AfterValidator(_reachable)]
Listening = Annotated[str, AfterValidator(_listening)]
