"""Which variables of the environment an integration can't start without.

Decides it from the declarations, as the start of an app does; leaves reading them to the app.
"""

from __future__ import annotations

from ensue.integrations.contract import Integration
from ensue.integrations.settings.conversion import optional
from ensue.integrations.settings.environment import UNSET


def required_variables(integration: Integration) -> list[str]:
    """The variables without which `integration` can't start: no default, not optional, not given to the constructor."""
    return [
        setting.variable
        for name, setting in integration.__ensue_settings__.items()
        if setting.variable is not None
        and setting.default is UNSET
        and name not in vars(integration)
        and not optional(setting.type())
    ]
