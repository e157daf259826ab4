"""A real Redis Cluster for tests: three servers of their own, each with a third of the slots and no replica.

Decides how the cluster is made. Leaves each server's life to `tests.services`. Invariant: a server that is killed and
started again is the same node with the same slots; what it held is lost.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator, Sequence
from typing import Self

import redis

from tests.services import START_SECONDS_MAX, RedisServer, ServiceError

SLOTS = 16_384
OVERRIDE = "ENSUE_TEST_REDIS_CLUSTER"


class _Node(RedisServer):
    """One server; its bus has a port of its own, since port + 10000 need not exist."""

    name = "Redis Cluster node"
    override = OVERRIDE

    def __init__(self) -> None:
        super().__init__()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.bus_port = int(probe.getsockname()[1])

    def _command(self) -> Sequence[str]:
        cluster = ["--cluster-enabled", "yes", "--cluster-port", str(self.bus_port), "--cluster-node-timeout", "2000"]
        return [*super()._command(), *cluster, "--cluster-require-full-coverage", "no"]

    def ask(self, *command: object) -> object:
        """Run one command here."""
        with contextlib.closing(redis.Redis(port=self.port, decode_responses=True)) as client:
            return client.execute_command(*command)


class RedisClusterServers:
    """`with RedisClusterServers() as cluster`: `cluster.url`, `cluster.nodes`."""

    def __init__(self) -> None:
        self.nodes: list[_Node] = []

    @property
    def url(self) -> str:
        return f"redis+cluster://127.0.0.1:{self.nodes[0].port}"

    def __enter__(self) -> Self:
        try:
            for _ in range(3):
                node = _Node()
                self.nodes.append(node)
                node.start()
            self._join()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop all."""
        for node in self.nodes:
            node.close()

    def node_of(self, topic: str) -> _Node:
        """The server that has the slot of `topic`."""
        slot = int(str(self.nodes[0].ask("CLUSTER", "KEYSLOT", topic)))
        shares = self.nodes[0].ask("CLUSTER", "SLOTS")
        assert isinstance(shares, list)
        (port,) = [share[2][1] for share in shares if share[0] <= slot <= share[1]]
        return next(node for node in self.nodes if node.port == port)

    def move(self, topic: str, source: _Node, target: _Node) -> None:
        """Give the slot of `topic`, with what is in it, to another server."""
        slot = int(str(source.ask("CLUSTER", "KEYSLOT", topic)))
        ids = {node.port: str(node.ask("CLUSTER", "MYID")) for node in (source, target)}
        target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source.port])
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target.port])
        keys = source.ask("CLUSTER", "GETKEYSINSLOT", slot, 100)
        assert isinstance(keys, list)
        if keys:
            source.ask("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
        for node in (target, source):
            node.ask("CLUSTER", "SETSLOT", slot, "NODE", ids[target.port])

    def until_complete(self) -> None:
        """Wait until every server sees all slots served."""
        deadline = time.monotonic() + START_SECONDS_MAX
        while not all(self._is_complete(node) for node in self.nodes):
            if time.monotonic() > deadline:
                raise ServiceError(f"The Redis Cluster did not come together within {START_SECONDS_MAX:.0f} s.")
            time.sleep(0.02)

    def _is_complete(self, node: _Node) -> bool:
        with contextlib.suppress(redis.RedisError, OSError):
            found = str(node.ask("CLUSTER", "INFO"))
            return "cluster_state:ok" in found and f"cluster_slots_ok:{SLOTS}" in found
        return False

    def _join(self) -> None:
        share = SLOTS // len(self.nodes) + 1
        for number, node in enumerate(self.nodes):
            first = number * share
            node.ask("CLUSTER", "ADDSLOTSRANGE", first, min(SLOTS, first + share) - 1)
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for node in self.nodes[1:]:
            self.nodes[0].ask("CLUSTER", "MEET", "127.0.0.1", node.port, node.bus_port)
        self.until_complete()


@contextlib.contextmanager
def cluster_url() -> Iterator[str]:
    """The URL of a cluster: the one named in the environment, or one of our own."""
    if url := os.environ.get(OVERRIDE):
        yield url
        return
    with RedisClusterServers() as cluster:
        yield cluster.url
