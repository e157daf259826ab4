"""Settings of accounts: what is refused at the start, and where they come from."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from ensue import DeclarationError
from tests.integrations.accounts.accounts_app import PASSWORD, SECRET, Client, accounts_app, quick


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"secret": "short"}, "expected at least 32"),
        ({"previous_secrets": ["short"]}, "previous_secrets has 5 bytes"),
        ({"verification": True}, "needs send="),
        ({"revocation_check": timedelta(0)}, "longer than nothing"),
        ({"reset_lifetime": timedelta(0)}, "reset_lifetime must be longer than nothing"),
        ({"refresh_grace": timedelta(seconds=-1)}, "refresh_grace must be 0s"),
        ({"password_characters_min": 0}, "password_characters_min is 0; expected 1 or more"),
        ({"argon2_time_cost": 0}, "argon2_time_cost is 0; expected 1 or more"),
        ({"argon2_memory_kib": 31, "argon2_parallelism": 4}, "argon2_memory_kib is 31; expected 32 or more"),
        ({"argon2_threads": 0}, "argon2_threads is 0; expected 1 or more"),
        ({"cookie_origins": ["example.com"]}, "cookie_origins has 'example.com'; expected https://host"),
        ({"cookie_origins": ["https://example.com/"]}, "cookie_origins has"),
    ],
)
async def test_wrong_settings_are_refused_at_the_start(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(DeclarationError, match=message):
        async with quick(accounts_app(**settings)):
            pass


async def test_settings_come_from_the_environment() -> None:
    app = accounts_app(secret=None)
    del vars(app.integrations["accounts"])["secret"]
    environment = {"ACCOUNTS_SECRET": SECRET, "ACCOUNTS_ACCESS_LIFETIME": "1m"}
    async with quick(app, env=environment) as harness:
        client = Client(harness)
        found = await client.call("register", login="ann", password=PASSWORD)
        assert found.expires_in_seconds == 60
        assert SECRET not in repr(harness.integration("accounts"))
