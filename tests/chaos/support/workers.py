"""Web processes one by one: which there are, which journal and which connections each has."""

import os
import socket
import time
from pathlib import Path
from typing import NamedTuple

from tests.chaos.support.processes import Process, descendants
from tests.chaos.support.runner import SupervisedGateway
from tests.chaos.support.wire import Connection, get
from tests.gateway import GatewayProcess, is_true_within

_MOST_CONNECTIONS = 500
_GIVES_UP_SECONDS = 30


def make_gateway_of(workers: int, **options: object) -> GatewayProcess:
    """Return a gateway with so many web processes, each of which is started again when it is killed."""
    if workers == 1:
        return SupervisedGateway(**options)  # type: ignore[arg-type]
    return GatewayProcess(workers=workers, **options)  # type: ignore[arg-type]


def workers_of(gateway: GatewayProcess) -> list[Process]:
    """Return the processes that serve."""
    below = descendants(gateway.pid)
    spawned = [process for process in below if "spawn_main" in process.command]
    return spawned or [process for process in below if "manage.py serve" in process.command]


def journals_of(gateway: GatewayProcess, worker: Process) -> set[str]:
    """Return the ids of the journals that a process has open: its own, and one that it may be adopting."""
    found = set()
    for link in Path(f"/proc/{worker.pid}/fd").iterdir():
        try:
            target = Path(os.readlink(link))
        except FileNotFoundError:
            continue
        if gateway.journal_dir in target.parents:
            found.add(target.relative_to(gateway.journal_dir).parts[0])
    return found


class Kill(NamedTuple):
    """When a worker was killed and when its calls held nothing any more, in Unix seconds."""

    journals: set[str]
    at: float
    gone_at: float

    @property
    def seconds(self) -> float:
        return self.gone_at - self.at


def kill_and_wait_for_holds(
    gateway: GatewayProcess, worker: Process, *, committed_after_s: float = 0.0
) -> Kill:
    """Kill a worker and wait until its calls hold nothing, or half a minute has passed.

    committed_after_s: when a hold that was being made is there, too.
    """
    from billing.models import Hold

    def hold_nothing() -> bool:
        with gateway.orm():
            return not Hold.objects.filter(journal_id__in=journals, lease_expires_at__isnull=False).exists()

    journals = journals_of(gateway, worker)
    killed_at = time.time()
    worker.kill()
    time.sleep(committed_after_s)
    is_true_within(_GIVES_UP_SECONDS, hold_nothing)
    return Kill(journals, killed_at, time.time())


async def connection_to_each(gateway: GatewayProcess) -> dict[int, Connection]:
    """Return a connection to each worker, by its pid. Raises: AssertionError where one takes none."""
    wanted = {worker.pid for worker in workers_of(gateway)}
    found: dict[int, Connection] = {}
    spare: list[Connection] = []
    for _ in range(_MOST_CONNECTIONS):
        connection = await Connection.open(gateway.port)
        await connection.answer(get("/health/liveness"))  # from now on somebody has accepted it
        pid = _peer(connection, wanted)
        if pid is None or pid in found:
            spare.append(connection)
        else:
            found[pid] = connection
        if len(found) == len(wanted):
            break
    for connection in spare:
        connection.close()
    assert set(found) == wanted, f"{len(found)} of {len(wanted)} workers take connections"
    return found


def _peer(connection: Connection, pids: set[int]) -> int | None:
    """Return which of the processes has the other end of a connection."""
    inode = _inode_of_the_other_end(connection.socket_name)
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").iterdir():
            try:
                if os.readlink(link) == f"socket:[{inode}]":
                    return pid
            except FileNotFoundError:
                continue
    return None


def _inode_of_the_other_end(name: tuple[str, int]) -> str:
    host, port = name
    ours = f"{socket.inet_aton(host)[::-1].hex().upper()}:{port:04X}"
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[2] == ours:  # for the other end we are the remote address
            return fields[9]
    raise AssertionError(f"the kernel does not know the connection from {name}")
