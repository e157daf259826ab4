"""The channels example through its interactions: what users may do, and what follows from it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from ensue import ConstraintViolated, InvalidValue, Rejected
from ensue.engine.audit import audit
from ensue.testing import AppHarness
from examples.channels.app import (
    AllChannels,
    Channel,
    HiddenMessages,
    HideMessage,
    JoinChannel,
    LiveStream,
    MarkRead,
    Me,
    Membership,
    Message,
    MyChannels,
    MyStreams,
    OpenChannel,
    RestoreMessage,
    SendMessage,
    SignUp,
    Site,
    StartStream,
    Timeline,
    User,
    app,
    login,
)
from examples.channels.streams import push_url


class Chat:
    """Three users, of whom ada moderates and eve is in no channel, and a channel of ada and bob."""

    def __init__(self, harness: AppHarness) -> None:
        self.harness = harness
        self.store = harness.store

    async def begin(self) -> None:
        for name in ("ada", "bob", "eve"):
            await self.harness.controller.dispatch(SignUp(name=name))
        self.ada, self.bob, self.eve = await self.store.find(User)
        await self.do(OpenChannel(name="general"), self.ada)
        self.channel = (await self.store.find(Channel))[0]
        for user in (self.ada, self.bob):
            await self.do(JoinChannel(channel=self.channel), user)

    async def do(self, interaction: Any, user: Any = None) -> Any:
        return await self.harness.controller.dispatch(interaction, user=user)

    async def read(self, interaction: Any, user: Any) -> list[Any]:
        return (await self.do(interaction, user)).response

    async def say(self, text: str, user: Any) -> Message:
        event = await self.do(SendMessage(channel=self.channel, text=text), user)
        created = next(change for change in event.changes if change.record_name == "Message")
        return created.record

    async def membership(self, user: Any) -> Membership:
        found = await self.store.find_one(Membership, Membership.user == user)
        assert found is not None
        return found

    async def user(self, user: User) -> User:
        return await self.store.get(User, user.id)

    async def the_channel(self) -> Channel:
        return await self.store.get(Channel, self.channel.id)


@pytest.fixture(params=["sqlite", "postgres"])
async def chat(request: pytest.FixtureRequest) -> AsyncIterator[Chat]:
    database = "sqlite:///:memory:" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    async with AppHarness(app, database=database) as harness:
        chat = Chat(harness)
        await chat.begin()
        yield chat
        report = await audit(harness.controller.engine)
        assert report.clean, report.findings


async def test_counts_follow_what_is_said(chat: Chat) -> None:
    await chat.say("one", chat.ada)
    chat.harness.clock.advance(seconds=60)
    last = await chat.say("two", chat.ada)
    channel, ada, bob = await chat.the_channel(), await chat.user(chat.ada), await chat.user(chat.bob)
    assert (channel.member_count, channel.message_count, channel.last_activity) == (2, 2, last.at)
    assert (ada.message_count, ada.channel_count, bob.message_count, bob.channel_count) == (2, 1, 0, 1)
    assert (await chat.membership(chat.bob)).unread == 2
    site = await chat.harness.call("site", "totals")
    assert (site.users, site.channels, site.messages, site.hidden, site.unread) == (3, 1, 2, 0, 4)
    assert site.last_activity == last.at


async def test_reading_moves_the_mark_forward_only(chat: Chat) -> None:
    for text in ("one", "two", "three"):
        await chat.say(text, chat.ada)
    mine = await chat.membership(chat.bob)
    for count, unread in ((2, 1), (1, 1), (3, 0)):
        await chat.do(MarkRead(membership=mine, count=count), chat.bob)
        assert (await chat.membership(chat.bob)).unread == unread
        assert (await chat.store.globals(Site)).unread == unread + 3
    assert (await chat.membership(chat.ada)).unread == 3


async def test_nobody_reads_for_others_or_ahead(chat: Chat) -> None:
    await chat.say("one", chat.ada)
    mine = await chat.membership(chat.bob)
    for user, count in ((chat.ada, 1), (None, 1), (chat.bob, 2), (chat.bob, -1)):
        with pytest.raises(Rejected, match="not_allowed"):
            await chat.do(MarkRead(membership=mine, count=count), user)


async def test_moderators_hide_and_restore(chat: Chat) -> None:
    spam, _ = await chat.say("spam", chat.bob), await chat.say("ham", chat.ada)
    await chat.do(HideMessage(message=spam), chat.ada)
    assert [message.text for message in await chat.read(Timeline(channel=chat.channel), chat.bob)] == ["ham"]
    hidden = await chat.read(HiddenMessages(channel=chat.channel), chat.ada)
    assert [(message.text, message.status, message.sender.name) for message in hidden] == [("spam", "hidden", "bob")]
    assert ((await chat.the_channel()).hidden_count, (await chat.user(chat.bob)).hidden_count) == (1, 1)
    assert (await chat.store.globals(Site)).hidden == 1
    await chat.do(RestoreMessage(message=spam), chat.ada)
    shown = await chat.read(Timeline(channel=chat.channel), chat.bob)
    assert [(message.text, message.status) for message in shown] == [("ham", "visible"), ("spam", "restored")]
    assert ((await chat.the_channel()).hidden_count, (await chat.store.globals(Site)).hidden) == (0, 0)


async def test_a_message_that_is_not_hidden_is_not_restored(chat: Chat) -> None:
    message = await chat.say("ham", chat.ada)
    await chat.do(RestoreMessage(message=message), chat.ada)
    assert (await chat.store.get(Message, message.id)).status == "visible"


async def test_only_moderators_moderate(chat: Chat) -> None:
    message = await chat.say("ham", chat.ada)
    for user in (chat.bob, None):
        for interaction in (HideMessage(message=message), RestoreMessage(message=message)):
            with pytest.raises(Rejected, match="not_allowed"):
                await chat.do(interaction, user)
        with pytest.raises(Rejected, match="not_allowed"):
            await chat.read(HiddenMessages(channel=chat.channel), user)
    assert (await chat.store.get(Message, message.id)).status == "visible"


async def test_only_members_talk_stream_and_listen(chat: Chat) -> None:
    for user in (chat.eve, None):
        for interaction in (
            SendMessage(channel=chat.channel, text="hi"),
            StartStream(channel=chat.channel),
            Timeline(channel=chat.channel),
        ):
            with pytest.raises(Rejected, match="not_allowed"):
                await chat.do(interaction, user)
    for interaction in (OpenChannel(name="x"), JoinChannel(channel=chat.channel), Me(), MyChannels(), AllChannels()):
        with pytest.raises(Rejected, match="not_allowed"):
            await chat.do(interaction, None)
    assert await chat.store.count(Message) == 0


async def test_what_makes_no_sense_is_refused(chat: Chat) -> None:
    for text in ("", "   ", "x" * 2_001):
        with pytest.raises(Rejected, match="characters"):
            await chat.say(text, chat.ada)
    with pytest.raises(Rejected, match="characters"):
        await chat.do(SignUp(name=""))
    for name in (" ", "x" * 41):
        with pytest.raises(Rejected, match="characters"):
            await chat.do(OpenChannel(name=name), chat.ada)
    with pytest.raises(ConstraintViolated):
        await chat.do(JoinChannel(channel=chat.channel), chat.ada)
    with pytest.raises(ConstraintViolated):
        await chat.do(OpenChannel(name="general"), chat.bob)
    with pytest.raises(InvalidValue):
        await chat.do(JoinChannel(channel=Channel.ref(99)), chat.bob)


async def test_users_see_what_is_theirs(chat: Chat) -> None:
    await chat.do(OpenChannel(name="music"), chat.bob)
    ((me,), mine) = (await chat.read(Me(), chat.bob), await chat.read(MyChannels(), chat.bob))
    assert (me.id, me.name, [membership.channel.id for membership in mine]) == (chat.bob.id, "bob", [chat.channel.id])
    assert [channel.name for channel in await chat.read(AllChannels(), chat.eve)] == ["general", "music"]


async def test_members_receive_what_is_said(chat: Chat) -> None:
    bob, eve = await chat.harness.connect(chat.bob), await chat.harness.connect(chat.eve)
    await chat.say("hello", chat.ada)
    await chat.harness.drain()
    (push,) = [item for item in bob.sent if item["type"] == "message"]
    assert push["channel"] == chat.channel.id
    assert (push["message"]["text"], push["message"]["sender"]["name"]) == ("hello", "ada")
    assert [item["type"] for item in eve.sent] == ["joined"]


async def test_a_stream_gets_an_address_signed_when_it_is_created(chat: Chat) -> None:
    chat.harness.clock.advance(seconds=100)
    await chat.do(StartStream(channel=chat.channel), chat.bob)
    (stream,) = await chat.read(MyStreams(), chat.bob)
    key, expires_at = "a key for demonstrations", chat.harness.clock.now() + timedelta(hours=1)
    assert stream.url == push_url("push.example.com", f"/live/{stream.name}", key=key, expires_at=expires_at)
    chat.harness.clock.advance(seconds=100)
    assert (await chat.store.get(LiveStream, stream.id)).url == stream.url
    assert await chat.read(MyStreams(), chat.ada) == []


async def test_who_logs_in_is_that_user_until_the_token_expires(chat: Chat) -> None:
    given = await chat.harness.call("login", "log_in", name=" bob ")
    assert given.user == chat.bob.id
    chat.harness.clock.advance(seconds=given.expires_in_seconds - 1)
    for request in (asked(header=given.token), asked(query=given.token)):
        assert login.authenticate(request).id == chat.bob.id
    chat.harness.clock.advance(seconds=1)
    with pytest.raises(Rejected, match="expired") as refused:
        login.authenticate(asked(header=given.token))
    assert refused.value.reason == "not_authenticated"


async def test_a_new_name_signs_up(chat: Chat) -> None:
    given = await chat.harness.call("login", "log_in", name="new")
    assert (await chat.store.get(User, given.user)).name == "new"
    with pytest.raises(Rejected, match="characters"):
        await chat.harness.call("login", "log_in", name="  ")


async def test_forged_tokens_are_refused(chat: Chat) -> None:
    token = (await chat.harness.call("login", "log_in", name="bob")).token
    user, expires, signature = token.split(".")
    forged = (
        f"{chat.ada.id}.{expires}.{signature}",
        f"{user}.{int(expires) + 1}.{signature}",
        f"{user}.{expires}.",
        f"{user}.{expires}.é",
        "nonsense",
        "a.b.c.d",
    )
    for one in forged:
        with pytest.raises(Rejected, match="not_authenticated"):
            login.authenticate(asked(query=one))
    assert login.authenticate(asked()) is None


def asked(*, header: str = "", query: str = "") -> Any:
    """A request, as far as it says who asks."""
    headers = {"authorization": f"Bearer {header}"} if header else {}
    return SimpleNamespace(headers=headers, query_params={"token": query} if query else {})


async def test_the_key_of_streams_is_not_shown(chat: Chat) -> None:
    shown = repr(chat.harness.integration("streams"))
    assert "push.example.com" in shown
    assert "demonstrations" not in shown


def test_an_address_is_signed_as_the_service_prescribes() -> None:
    url = push_url("d", "/live/s", key="k", expires_at=datetime(2026, 1, 1, tzinfo=UTC))
    # md5 of "/live/sk1767225600"
    assert url == "rtmp://d/live/s?volcTime=1767225600&volcSecret=466439d87c0e9ebf2aca69ef4e7693be"
