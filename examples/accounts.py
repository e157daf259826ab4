"""Notes that one writes for oneself, behind a login: `ACCOUNTS_SECRET=… ensue run examples.accounts:served`.

    curl localhost:8000/api/integrations/accounts/register --json '{"login": "ann", "password": "correct horse battery"}'
    curl localhost:8000/api/interactions/WriteNote --json '{"text": "milk"}' -H "Authorization: Bearer $ACCESS_TOKEN"

Leaves who a user is to `Accounts`: nothing here sees a password or a token.
"""

from __future__ import annotations

import os
from typing import Any

from ensue import App, Context, Entity, Interaction, One, Property, Rejected, Transform
from ensue.integrations.accounts import AccountMessage, Accounts, Registration


class User(Entity):
    name: Property[str]


class WriteNote(Interaction):
    text: str

    async def allow(self, ctx: Context) -> bool:
        return ctx.user is not None


class Note(Entity, derived=Transform(WriteNote, lambda e: {"text": e.text, "author": e.user})):
    text: Property[str]
    author: One[User]


class MyNotes(Interaction, reads=lambda: Note):
    def query(self, ctx: Context) -> dict[str, Any]:
        return {"where": Note.author.id == ctx.user.id, "order_by": [Note.id.desc()]}

    async def allow(self, ctx: Context) -> bool:
        return ctx.user is not None


def new_user(who: Registration) -> User:
    """A user needs a name; the login will do if there is no other."""
    name = str(who.profile.get("name", who.login)).strip()
    if not name:
        raise Rejected("no_name", "Say what you want to be called.", fields={"profile": "has no name"})
    return User(name=name)


async def send(message: AccountMessage) -> None:
    """Print what would be an e-mail. This is for trying it out: whoever reads it has the account."""
    print(f"To {message.login}: {message.purpose}, {message.token or 'you have an account already'}")


accounts = Accounts(users=User, new_user=new_user, send=send)
app = App(
    user=User,
    entities=[Note],
    interactions=[WriteNote, MyNotes],
    integrations={"accounts": accounts},
    database=os.environ.get("DATABASE", "sqlite:///notes.db"),
)
served = app.asgi(authenticate=accounts.authenticate)
