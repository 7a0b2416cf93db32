"""How a configuration refuses a value."""

from stablerep.errors import ConfigError


def check(condition: bool, message: str) -> None:
    """Raise `message` unless the condition holds.

    Raises:
        ConfigError: it does not.
    """
    if not condition:
        raise ConfigError(message)
