"""The application: users, channels, memberships, messages, and everything that follows from them.

All of it is declared here: what is annotated is stored, what is not is derived and kept true by the framework, and the
interactions are all that a client can do. Leaves who is asking to `login`, the addresses of streams to `streams`, and the
page to `site`. Settings: `DATABASE`, `REDIS_URL`, and `MODERATORS`, the names of those who may moderate.
"""

from __future__ import annotations

import os
from datetime import datetime
from typing import Any, ClassVar

from ensue import (
    App,
    Computed,
    Context,
    Count,
    Entity,
    Globals,
    Integration,
    Interaction,
    Many,
    Max,
    One,
    Property,
    Ref,
    Rejected,
    Relation,
    State,
    StateMachine,
    Sum,
    Transform,
    Transition,
    api,
    now,
)
from ensue.integrations.redis_channels import RedisChannels
from examples.channels.login import Login
from examples.channels.streams import Stream, StreamUrls

MODERATORS = frozenset(os.environ.get("MODERATORS", "ada").split(","))
TEXT_LENGTH_MAX = 2_000
PAGE = 50


# --- What users may do ----------------------------------------------------------------------------------------------


class SignUp(Interaction):
    """Become a user."""

    name: str

    async def allow(self, ctx: Context) -> bool:
        if not 1 <= len(self.name.strip()) <= 30:
            raise Rejected("invalid", "A name has 1 to 30 characters.", fields={"name": "has a wrong length"})
        return True


class OpenChannel(Interaction):
    """Make a channel. It is empty: who opened it joins like everybody else."""

    name: str

    async def allow(self, ctx: Context) -> bool:
        if not 1 <= len(self.name.strip()) <= 40:
            raise Rejected("invalid", "A channel's name has 1 to 40 characters.", fields={"name": "has a wrong length"})
        return ctx.user is not None


class JoinChannel(Interaction):
    """Become a member."""

    channel: Ref[Channel]

    async def allow(self, ctx: Context) -> bool:
        return ctx.user is not None


class SendMessage(Interaction):
    """Say something in a channel that one is a member of."""

    channel: Ref[Channel]
    text: str

    async def allow(self, ctx: Context) -> bool:
        if not 1 <= len(self.text.strip()) <= TEXT_LENGTH_MAX:
            raise Rejected(
                "invalid", f"A message has 1 to {TEXT_LENGTH_MAX} characters.", fields={"text": "is empty or long"}
            )
        return await is_member(ctx, self.channel)


class MarkRead(Interaction):
    """Have read the first `count` messages of the channel of one's membership."""

    membership: Ref[Membership]
    count: int

    async def allow(self, ctx: Context) -> bool:
        fields = [Membership.user, Membership.channel.message_count]
        mine = await ctx.controller.store.get(Membership, self.membership.id, fields=fields)
        return ctx.user is not None and mine.user.id == ctx.user.id and 0 <= self.count <= mine.channel.message_count


class HideMessage(Interaction):
    """Moderate: take a message out of sight."""

    message: Ref[Message]

    async def allow(self, ctx: Context) -> bool:
        return await is_moderator(ctx)


class RestoreMessage(Interaction):
    """Moderate: bring a hidden message back."""

    message: Ref[Message]

    async def allow(self, ctx: Context) -> bool:
        return await is_moderator(ctx)


class StartStream(Interaction):
    """Get an address that live video for a channel can be pushed to."""

    channel: Ref[Channel]

    async def allow(self, ctx: Context) -> bool:
        return await is_member(ctx, self.channel)


# --- What there is, and what follows --------------------------------------------------------------------------------


class User(Entity, derived=Transform(SignUp, lambda e: {"name": e.name, "moderator": e.name in MODERATORS})):
    name: Property[str] = Property(unique=True)
    moderator: Property[bool] = Property(default=False)
    memberships = Many(lambda: Membership, inverse="user")
    messages = Many(lambda: Message, inverse="sender")

    channel_count = Count(memberships)
    message_count = Count(messages)
    hidden_count = Count(messages, where=lambda m: m.status == "hidden")


class Channel(Entity, derived=Transform(OpenChannel, lambda e: {"name": e.name, "opened_by": e.user})):
    name: Property[str] = Property(unique=True)
    opened_by: One[User]
    memberships = Many(lambda: Membership, inverse="channel")
    messages = Many(lambda: Message, inverse="channel")

    member_count = Count(memberships)
    message_count = Count(messages)
    hidden_count = Count(messages, where=lambda m: m.status == "hidden")
    last_activity = Max(messages, lambda m: m.at)


READING = State("reading", value=lambda last, event: max(last or 0, event.count))


class Membership(Relation, derived=Transform(JoinChannel, lambda e: {"user": e.user, "channel": e.channel})):
    user: One[User]
    channel: One[Channel]
    joined_at: Property[datetime] = Property(default=now)

    # None before the first; never less than before, in whatever order two tabs say what they showed.
    read_count = StateMachine[int | None](
        initial=READING,
        states=[READING],
        transitions=[Transition(READING, READING, on=MarkRead, record=lambda e: e.membership)],
    )
    unread = Computed[int](lambda m: m.channel.message_count - m.read_count.or_else(0))


class Message(
    Entity, derived=Transform(SendMessage, lambda e: {"text": e.text, "channel": e.channel, "sender": e.user})
):
    text: Property[str]
    at: Property[datetime] = Property(default=now)
    sender: One[User]
    channel: One[Channel]

    status: ClassVar[StateMachine[str]] = StateMachine(  # annotated, since User and Channel above read it
        initial="visible",
        transitions=[
            Transition(("visible", "restored"), "hidden", on=HideMessage, record=lambda e: e.message),
            Transition("hidden", "restored", on=RestoreMessage, record=lambda e: e.message),
        ],
    )


class LiveStream(
    Stream,
    derived=Transform(
        StartStream, lambda e: {"name": f"channel-{e.channel.id}-{e.id}", "channel": e.channel, "host": e.user}
    ),
):
    channel: One[Channel]
    host: One[User]


class Site(Globals):
    users = Count(lambda: User)
    channels = Count(lambda: Channel)
    messages = Count(lambda: Message)
    hidden = Count(lambda: Message, where=lambda m: m.status == "hidden")
    unread = Sum(lambda: Membership, lambda m: m.unread)
    last_activity = Max(lambda: Message, lambda m: m.at)


# --- What users may see ---------------------------------------------------------------------------------------------


class Me(Interaction, reads=lambda: User):
    """The user who asks."""

    async def allow(self, ctx: Context) -> bool:
        return ctx.user is not None

    def query(self, ctx: Context) -> dict[str, Any]:
        return {"where": User.id == ctx.user.id}


class MyChannels(Interaction, reads=lambda: Membership):
    """Where the user is a member, with the channels."""

    async def allow(self, ctx: Context) -> bool:
        return ctx.user is not None

    def query(self, ctx: Context) -> dict[str, Any]:
        return {
            "where": Membership.user == ctx.user,
            "fields": [Membership.read_count, Membership.unread, Membership.channel],
        }


class AllChannels(Interaction, reads=lambda: Channel):
    """Every channel."""

    async def allow(self, ctx: Context) -> bool:
        return ctx.user is not None


class Timeline(Interaction, reads=lambda: Message):
    """The last messages of a channel that are not hidden, newest first."""

    channel: Ref[Channel]

    async def allow(self, ctx: Context) -> bool:
        return await is_member(ctx, self.channel)

    def query(self, ctx: Context) -> dict[str, Any]:
        return {"where": (Message.channel == self.channel) & (Message.status != "hidden"), **LATEST}


class HiddenMessages(Interaction, reads=lambda: Message):
    """The last messages of a channel that are hidden, for moderators."""

    channel: Ref[Channel]

    async def allow(self, ctx: Context) -> bool:
        return await is_moderator(ctx)

    def query(self, ctx: Context) -> dict[str, Any]:
        return {"where": (Message.channel == self.channel) & (Message.status == "hidden"), **LATEST}


class MyStreams(Interaction, reads=lambda: LiveStream):
    """The streams that the user started, newest first, with the addresses to push to."""

    async def allow(self, ctx: Context) -> bool:
        return ctx.user is not None

    def query(self, ctx: Context) -> dict[str, Any]:
        return {"where": LiveStream.host == ctx.user, "order_by": [LiveStream.id.desc()], "limit": PAGE}


LATEST: dict[str, Any] = {
    "fields": [Message.text, Message.at, Message.status, Message.channel, Message.sender.fields(User.name)],
    "order_by": [Message.id.desc()],
    "limit": PAGE,
}


async def is_member(ctx: Context, channel: Channel) -> bool:
    """Whether the user who asks is a member of `channel`."""
    if ctx.user is None:
        return False
    mine = (Membership.user == ctx.user) & (Membership.channel == channel)
    return await ctx.controller.store.count(Membership, mine) > 0


async def is_moderator(ctx: Context) -> bool:
    """Whether the user who asks moderates."""
    if ctx.user is None:
        return False
    return (await ctx.controller.store.get(User, ctx.user.id)).moderator


class Totals(Integration):
    """The site's totals, for everyone, at `POST /api/integrations/site/totals`."""

    @api(allow_anonymous=True)
    async def totals(self, ctx: Context) -> Site:
        """How much there is of everything."""
        return await ctx.controller.store.globals(Site)


login = Login(users=User, sign_up=SignUp)

app = App(
    user=User,
    interactions=[
        SignUp,
        OpenChannel,
        JoinChannel,
        SendMessage,
        MarkRead,
        HideMessage,
        RestoreMessage,
        StartStream,
        Me,
        MyChannels,
        AllChannels,
        Timeline,
        HiddenMessages,
        MyStreams,
    ],
    entities=[Channel, Membership, Message, LiveStream],
    globals=[Site],
    integrations={
        "channels": RedisChannels(
            membership=Membership,
            message=Message,
            fields=[Message.sender.name],
            redis_url=os.environ.get("REDIS_URL", "memory://"),
        ),
        "login": login,
        "streams": StreamUrls(),
        "site": Totals(),
    },
    database=os.environ.get("DATABASE", "sqlite:///channels.db"),
)
