"""What a configuration asks for and does not get here is refused by name: nothing is left out silently."""

from __future__ import annotations

from nsbox._config import SandboxConfig
from nsbox._errors import ConfigError

_LATER = "is not available in this version of nsbox"


def refuse_unavailable(config: SandboxConfig) -> None:
    """Check a configuration against what this version can do.

    Raises:
        ConfigError: Names the field.
    """
    wanted = {
        "resources.network.access='egress' (network=True)": config.resources.network.access == "egress",
    }
    for field, asked in wanted.items():
        if asked:
            raise ConfigError(f"{field}: {_LATER}")
