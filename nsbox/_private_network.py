"""`AsyncNetwork` and `Network`: sandboxes that reach each other by name, and a partition between them."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Self

from nsbox._core import SandboxCore
from nsbox._core.segment import Segment
from nsbox._documented import documented_by
from nsbox._errors import ConfigError
from nsbox._route import Route
from nsbox._sandbox import SandboxProperties
from nsbox._supervisor.portal import get_portal


class NetworkProperties:
    """What `AsyncNetwork` and `Network` tell about themselves."""

    _segment: Segment

    @property
    def id(self) -> str:
        """Unique among all private networks."""
        return self._segment.id

    @property
    def name(self) -> str:
        """What stands behind the dot in its members' full names."""
        return self._segment.name

    @property
    def members(self) -> Mapping[str, str]:
        """The ids of the sandboxes in it, by the names that they have there; a snapshot."""
        return self._segment.members

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}: {', '.join(self.members) or 'no members'}>"


class AsyncNetwork(NetworkProperties):
    """A private network: sandboxes in it reach each other, by address and by name, and nobody else through it.

    It works for sandboxes of either `access`, and changes nothing of what they reach outside. All of its sandboxes, and
    all calls, belong to one event loop. As `async with`, it is closed on the way out.

    Args:
        name: A domain name, of which "db" is one, too; None: its id.

    Raises:
        ConfigError: It is no such name.
    """

    def __init__(self, name: str | None = None) -> None:
        self._segment = Segment(name)
        self._route = Route("network")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.aclose()

    async def connect(self, sandbox: SandboxProperties, name: str | None = None) -> None:
        """Take a sandbox in. All of its ports are open to the others there.

        It stays in by the same name over `suspend`, `restart`, `reset` and recoveries, though its address may change,
        and leaves when it is terminated. Again in the same way it changes nothing.

        Args:
            sandbox: Active or suspended.
            name: What the others find it by, alone ("db") or before the network's name ("db.backend"): letters, digits
                and hyphens, at most 63; None: its id. Where a sandbox is in several networks, a name alone is looked
                for in the one it came to first.

        Raises:
            ConfigError: It is no such name, or another member's, or the sandbox is in another network of that name.
            InvalidStateError: The network is closed, the sandbox is in it by another name, has not been started, has
                ended, or lives in another event loop.
            UnsupportedHostError: The host lacks what networks need; the remedy is in it.
            SetupError: The kernel refused a step; the sandbox is not in it.

        Not cancelled: it takes some milliseconds.
        """
        await self._route.call(self._segment.connect, _core(sandbox), name)

    async def remove(self, sandbox: SandboxProperties) -> None:
        """Take a sandbox out. One that is not in it is no error.

        Raises:
            SetupError: The kernel refused; it is still in it.
        """
        await self._route.call(self._segment.remove, _core(sandbox))

    async def disconnect(self, sandbox: SandboxProperties) -> None:
        """Part a member from all others there, as when a cable is pulled: packets are dropped both ways, silently.

        That holds at once, for connections that exist, too. Its name is still found. Over `restart` and `reset` it
        stays parted.

        Raises:
            InvalidStateError: It is not in this network.
            SetupError: The kernel refused; it is as it was.
        """
        await self._route.call(self._segment.disconnect, _core(sandbox))

    async def reconnect(self, sandbox: SandboxProperties) -> None:
        """End a partition. Connections of before go on, unless one of their ends has given up (tcp(7), tcp_retries2).

        Raises:
            InvalidStateError: It is not in this network.
            SetupError: The kernel refused; it is as it was.
        """
        await self._route.call(self._segment.reconnect, _core(sandbox))

    async def aclose(self) -> None:
        """Take all sandboxes out; nobody comes in any more. A second time, nothing.

        Raises:
            SetupError: The kernel refused; some are still in it.
        """
        await self._route.call(self._segment.close)


@documented_by(AsyncNetwork)
class Network(NetworkProperties):
    """A private network of sandboxes. The same as `AsyncNetwork`, for blocking code; as `with`, it is closed on the way
    out. Safe to use from several threads.

    Args:
        name: A domain name, of which "db" is one, too; None: its id.

    Raises:
        ConfigError: It is no such name.
    """

    def __init__(self, name: str | None = None) -> None:
        self._segment = Segment(name)
        self._portal = get_portal()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def connect(self, sandbox: SandboxProperties, name: str | None = None) -> None:
        """See `AsyncNetwork.connect`."""
        self._portal.call(self._segment.connect, _core(sandbox), name)

    def remove(self, sandbox: SandboxProperties) -> None:
        """See `AsyncNetwork.remove`."""
        self._portal.call(self._segment.remove, _core(sandbox))

    def disconnect(self, sandbox: SandboxProperties) -> None:
        """See `AsyncNetwork.disconnect`."""
        self._portal.call(self._segment.disconnect, _core(sandbox))

    def reconnect(self, sandbox: SandboxProperties) -> None:
        """See `AsyncNetwork.reconnect`."""
        self._portal.call(self._segment.reconnect, _core(sandbox))

    def close(self) -> None:
        """See `AsyncNetwork.aclose`."""
        if self._portal.usable:
            self._portal.call(self._segment.close)


def _core(sandbox: SandboxProperties) -> SandboxCore:
    """What it is to the supervisor's run.

    Raises:
        ConfigError: It is no sandbox.
    """
    if not isinstance(sandbox, SandboxProperties):
        raise ConfigError(f"sandbox={sandbox!r}: must be a Sandbox or an AsyncSandbox")
    return sandbox._core  # of the same package, not of the contract
