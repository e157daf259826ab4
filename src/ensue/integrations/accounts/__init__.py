"""Accounts: registration, login, sessions, password reset.

`Accounts` is the integration; the other names are what it takes, gives and keeps.
"""

from ensue.integrations.accounts.accounts import Accounts
from ensue.integrations.accounts.lockout import LockoutPolicy, Pauses, TooManyAttempts
from ensue.integrations.accounts.messages import (
    Accepted,
    AccountMessage,
    Registration,
    SessionInfo,
    SignedIn,
    Ticket,
)
from ensue.integrations.accounts.passwords import Argon2Parameters, Argon2Passwords, Compared, Passwords
from ensue.integrations.accounts.records import AccountEvent

__all__ = [
    "Accepted",
    "AccountEvent",
    "AccountMessage",
    "Accounts",
    "Argon2Parameters",
    "Argon2Passwords",
    "Compared",
    "LockoutPolicy",
    "Passwords",
    "Pauses",
    "Registration",
    "SessionInfo",
    "SignedIn",
    "Ticket",
    "TooManyAttempts",
]
