"""Network interface of gloo's connections between ranks.

gloo listens on the address that this host's own name resolves to, and tells the other ranks that address. It does not
work on laptops whose name does not resolve, nor on several nodes whose names resolve to 127.0.1.1, as Debian's and
Ubuntu's installers write it into /etc/hosts. ``GLOO_SOCKET_IFNAME`` names the interface instead.
"""

import os
import socket
import sys
from collections.abc import Iterator, MutableMapping

import psutil

from pause_megatron.errors import UserError
from pause_megatron.parallel.launcher import Launch

VARIABLE = "GLOO_SOCKET_IFNAME"
_SOMEWHERE = "198.51.100.1"
"""An address of no host (RFC 5737). Its route is the default route."""
_ANY_PORT = 9


def choose_gloo_interface(launch: Launch, environment: MutableMapping[str, str] = os.environ) -> None:
    """Set ``GLOO_SOCKET_IFNAME`` in ``environment`` unless it is set or gloo finds a suitable address by itself.

    On one node it is the loopback interface. On several it is the interface of ``NCCL_SOCKET_IFNAME``, or the one that
    leads to ``MASTER_ADDR``. Raises :class:`UserError` if none is found.
    """
    if environment.get(VARIABLE):
        return
    if launch.single_node:
        environment[VARIABLE] = "lo0" if sys.platform == "darwin" else "lo"
    elif name := _of_nccl(environment.get("NCCL_SOCKET_IFNAME", "")):
        environment[VARIABLE] = name
    elif not _own_name_is_reachable():
        environment[VARIABLE] = _interface_to(launch.master_addr)


def _of_nccl(setting: str) -> str:
    """Return the first interface that ``NCCL_SOCKET_IFNAME`` means; empty if it names none that is here.

    NCCL reads "ib" as every name that starts with ib, "=ib0" as exactly ib0, and "^docker" as all others.
    """
    if setting.startswith("^"):
        return ""
    exact, names = setting.startswith("="), [name for _, name in socket.if_nameindex()]
    for wanted in filter(None, setting.removeprefix("=").split(",")):
        wanted = wanted.partition(":")[0]  # NCCL allows a port after the name
        found = [name for name in sorted(names) if name == wanted or (name.startswith(wanted) and not exact)]
        if found:
            return found[0]
    return ""


def _own_name_is_reachable() -> bool:
    """Return whether the first address of this host's name is one of its interfaces, and not loopback."""
    try:
        address = socket.getaddrinfo(socket.gethostname(), None, type=socket.SOCK_STREAM)[0][4][0]
    except OSError:
        return False
    return any(address == own for _, own in _addresses())


def _interface_to(host: str) -> str:
    """Return the interface of this node that the node ``host`` can reach."""
    for target in (host, _SOMEWHERE):  # on rank 0's node, the host may be this node itself, by its loopback address
        local = _local_address(target)
        for name, address in _addresses():
            if address == local:
                return name
    names = sorted({name for name, _ in _addresses()})
    if len(names) == 1:
        return names[0]
    choices = f"this node has {', '.join(names)}" if names else "this node has no network"
    raise UserError(
        f"{VARIABLE}: the name {socket.gethostname()} resolves to a loopback address or not at all, and no interface"
        f" leads to MASTER_ADDR {host}; set it to the interface that the other nodes reach ({choices})"
    )


def _local_address(host: str) -> str:
    """Return the address from which this node would send to ``host``; empty if there is no route. Sends nothing."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, _ANY_PORT, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(address)
            return str(probe.getsockname()[0])
    except OSError:
        return ""


def _addresses() -> Iterator[tuple[str, str]]:
    """Yield name and address of every interface that is up, without loopback addresses."""
    status = psutil.net_if_stats()
    for name, entries in psutil.net_if_addrs().items():
        if name in status and status[name].isup:
            for entry in entries:
                address = entry.address.partition("%")[0]
                is_ip = entry.family in (socket.AF_INET, socket.AF_INET6)
                if is_ip and not address.startswith("127.") and address != "::1":
                    yield name, address
