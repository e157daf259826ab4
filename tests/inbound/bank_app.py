"""The bank's app, for programs of their own: where its database is says the environment."""

from __future__ import annotations

import os

from tests.inbound.payments import Bank
from tests.inbound.shop import shop

app = shop(os.environ["BANK_DATABASE"], integrations={"bank": Bank()})
