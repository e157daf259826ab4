"""`python -m examples.live_streams`: every stream has signed addresses, and a new pair when its owner asks for one."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from ensue import App, Context, Entity, Interaction, One, Property, Ref, Transform
from ensue.integrations.volc_stream import Stream, VolcStream
from ensue.testing import AppHarness

SETTINGS = {
    "VOLC_STREAM_PUSH_DOMAIN": "push.example.com",
    "VOLC_STREAM_PULL_DOMAIN": "pull.example.com",
    "VOLC_STREAM_KEY": "a key for demonstrations",
}


class User(Entity):
    name: Property[str]


class Announce(Interaction):
    name: str

    async def allow(self, ctx: Context) -> bool:
        return ctx.user is not None


class Show(Stream, derived=Transform(Announce, lambda e: {"name": e.name, "host": e.user})):
    host: One[User]


class RenewAddresses(Interaction):
    stream: Ref[Show]

    async def allow(self, ctx: Context) -> bool:
        show = await ctx.controller.store.get(Show, self.stream.id)
        return bool(ctx.user is not None and show.host.id == ctx.user.id)


streams = VolcStream(renew_on={Show: RenewAddresses}, lifetime=timedelta(hours=2))
app = App(user=User, entities=[Show], interactions=[Announce, RenewAddresses], integrations={"streams": streams})


async def main() -> None:
    """Announce a show, wait, and renew."""
    async with AppHarness(app, env=SETTINGS) as harness:
        ann = await harness.store.create(User(name="Ann"))
        await harness.controller.dispatch(Announce(name="show-7"), user=ann)
        (show,) = await harness.store.find(Show)
        print(f"push to {show.push_url}\nwatch at {show.pull_url}\nuntil {show.urls_expire_at}")
        harness.clock.advance(seconds=3600)
        await harness.controller.dispatch(RenewAddresses(stream=show), user=ann)
        (show,) = await harness.store.find(Show)
        print(f"renewed: push to {show.push_url}\nuntil {show.urls_expire_at}")


if __name__ == "__main__":
    asyncio.run(main())
