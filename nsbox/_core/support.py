"""What a configuration asks for and does not get here is refused by name: nothing is left out silently."""

from __future__ import annotations

from nsbox._config import SandboxConfig
from nsbox._errors import ConfigError

_DEFAULTS = SandboxConfig()
_LATER = "is not available in this version of nsbox"


def refuse_unavailable(config: SandboxConfig) -> None:
    """Check a configuration against what this version can do.

    Raises:
        ConfigError: Names the field.
    """
    wanted = {
        "resources.network.access='egress'": config.resources.network.access == "egress",
        "resources.memory.oom_kill_disable=True": config.resources.memory.oom_kill_disable,
        "writable_root=True": config.writable_root,
        "preload": bool(config.preload),
        "thresholds": config.thresholds != _DEFAULTS.thresholds,
        "recovery": config.recovery != _DEFAULTS.recovery,
        "heartbeat_interval": config.heartbeat_interval != _DEFAULTS.heartbeat_interval,
        "metrics_interval": config.metrics_interval != _DEFAULTS.metrics_interval,
        "store": config.store is not None,
    }
    for field, asked in wanted.items():
        if asked:
            raise ConfigError(f"{field}: {_LATER}")
