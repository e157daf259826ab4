"""Accounts, as clients see them: registration, login, sessions, passwords."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio

from ensue import Context, InvalidValue, Rejected, Unavailable
from ensue.integrations.accounts import AccountEvent, Argon2Parameters, Argon2Passwords, TooManyAttempts
from ensue.integrations.accounts.records import KINDS, AccountAttempt, AccountCredential, AccountSession, AccountToken
from ensue.testing.harness import AppHarness
from tests.integrations.accounts.accounts_app import (
    PASSWORD,
    SECRET,
    Client,
    Mailbox,
    QuickPasswords,
    User,
    accounts_app,
    quick,
)

OTHER = "another password"


@pytest_asyncio.fixture
async def harness() -> AsyncIterator[AppHarness]:
    async with quick(accounts_app()) as harness:
        yield harness


@pytest.fixture
def mailbox() -> Mailbox:
    return Mailbox()


@pytest_asyncio.fixture
async def confirmed(mailbox: Mailbox) -> AsyncIterator[AppHarness]:
    """Registrations are confirmed, passwords can be reset."""
    async with quick(accounts_app(send=mailbox.send, verification=True)) as harness:
        yield harness


async def ann(harness: AppHarness) -> Client:
    client = Client(harness)
    await client.call("register", login="Ann@example.com", password=PASSWORD, profile={"name": "Ann"})
    return client


async def kinds(harness: AppHarness) -> list[str]:
    return [event.kind for event in await harness.store.find(AccountEvent, order_by=[AccountEvent.id])]


def refused(code: str) -> Any:
    return pytest.raises(Rejected, match=f"^{code}")


class TestComing:
    """Registration and login."""

    async def test_who_registers_is_signed_in_and_may_come_again(self, harness: AppHarness) -> None:
        client = await ann(harness)
        user = await harness.store.get(User, await client.whoami())
        assert user.name == "Ann"
        again = Client(harness)
        await again.call("log_in", login=" ANN@EXAMPLE.COM ", password=PASSWORD, label="phone")
        assert await again.whoami() == user.id
        assert again.session != client.session
        assert await kinds(harness) == ["registered", "logged_in"]
        assert set(await kinds(harness)) <= set(KINDS)

    async def test_a_login_is_somebodys_once(self, harness: AppHarness) -> None:
        await ann(harness)
        with refused("login_taken"):
            await Client(harness).call("register", login="ann@example.com", password=OTHER)
        assert await harness.store.count(User) == 1

    @pytest.mark.parametrize(
        "wrong",
        [
            {"password": "short"},
            {"password": "ann@example.com"},
            {"password": "x" * 1025},
            {"login": " "},
            {"login": "a\nb"},
            {"login": "x" * 255},
        ],
    )
    async def test_what_is_no_login_or_password(self, harness: AppHarness, wrong: dict[str, Any]) -> None:
        given = {"login": "ann@example.com", "password": PASSWORD, **wrong}
        with pytest.raises(InvalidValue) as caught:
            await Client(harness).call("register", **given)
        assert set(caught.value.fields) == set(wrong)
        assert given["password"] not in str(caught.value) or given["password"] == given["login"]

    async def test_the_app_may_refuse_a_profile_or_a_password(self) -> None:
        def check(login: str, password: str) -> None:
            raise Rejected("too_common", "Everybody has this password.")

        async with quick(accounts_app(check_password=check)) as harness:
            with refused("too_common"):
                await ann(harness)
        async with quick(accounts_app()) as harness:
            with refused("no_name"):
                await Client(harness).call("register", login="ann", password=PASSWORD, profile={"name": ""})

    async def test_without_new_user_nobody_can_register(self) -> None:
        async with quick(accounts_app(new_user=None)) as harness:
            names = set(harness.run.apis["accounts"])
            assert not names & {"register", "request_registration", "request_password_reset"}
            user = await harness.store.create(User(name="ann"))
            accounts = harness.integration("accounts")
            await accounts.set_login(user, "ann", PASSWORD)
            client = Client(harness)
            await client.call("log_in", login="ann", password=PASSWORD)
            await accounts.set_login(user, "Anna", OTHER)
            with refused("not_authenticated"):
                await client.whoami()
            await Client(harness).call("log_in", login="anna", password=OTHER)

    async def test_the_answer_to_a_wrong_login_and_to_a_wrong_password_is_the_same(self, harness: AppHarness) -> None:
        await ann(harness)
        errors: list[str] = []
        for login in ("ann@example.com", "nobody@example.com"):
            with refused("wrong_credentials") as caught:
                await Client(harness).call("log_in", login=login, password=OTHER)
            errors.append(str(caught.value))
        assert errors[0] == errors[1]
        compared = harness.integration("accounts")._passwords.compared
        assert compared == [False, False]
        assert (await kinds(harness))[1:] == ["log_in_failed", "log_in_failed"]

    async def test_an_old_hash_is_made_anew_at_login(self, harness: AppHarness) -> None:
        await ann(harness)
        passwords = harness.integration("accounts")._passwords
        before = (await harness.store.find(AccountCredential))[0].password_hash
        passwords.outdated = True
        await harness.store.update_many(AccountCredential, AccountCredential.id > 0, password_hash=before.upper())
        passwords.compare = _compare_upper(passwords)
        await Client(harness).call("log_in", login="ann@example.com", password=PASSWORD)
        assert (await harness.store.find(AccountCredential))[0].password_hash == before


def _compare_upper(passwords: QuickPasswords) -> Any:
    original = passwords.compare

    async def compare(password_hash: str | None, password: str) -> Any:
        known = None if password_hash is None else password_hash.replace("INSECURE-FOR-TESTS", "insecure-for-tests")
        return await original(known and known.lower(), password)

    return compare


class TestArgon2:
    """Real hashes."""

    async def test_hashes_are_argon2id_and_compared_in_threads(self) -> None:
        async with Argon2Passwords(Argon2Parameters(1, 8, 1)) as passwords:
            found = await passwords.hash("Käse und Brot")
            assert found.startswith("$argon2id$v=19$m=8,t=1,p=1$")
            # The same letters, composed differently.
            assert (await passwords.compare(found, "Ka\u0308se und Brot")).right
            assert not (await passwords.compare(found, "Kase und Brot")).right
            assert not (await passwords.compare(None, "Käse und Brot")).right
            assert not (await passwords.compare("no hash", "x")).right

    async def test_a_hash_with_other_parameters_is_outdated(self) -> None:
        async with (
            Argon2Passwords(Argon2Parameters(1, 8, 1)) as old,
            Argon2Passwords(Argon2Parameters(2, 16, 1)) as new,
        ):
            found = await new.compare(await old.hash(PASSWORD), PASSWORD)
            assert (found.right, found.outdated) == (True, True)
            assert not (await new.compare(await new.hash(PASSWORD), PASSWORD)).outdated

    async def test_the_loop_goes_on_meanwhile_and_too_many_are_refused(self) -> None:
        async with Argon2Passwords(Argon2Parameters(2, 32_768, 1), threads=1) as passwords:
            work = [asyncio.create_task(passwords.hash(PASSWORD)) for _ in range(70)]
            turns = 0
            while not any(task.done() and task.exception() is None for task in work):
                await asyncio.sleep(0)
                turns += 1
            assert turns > 10
            refusals = [task for task in work if task.done() and task.exception() is not None]
            assert len(refusals) == 6
            assert all(isinstance(task.exception(), Unavailable) for task in refusals)
            for task in work:
                task.cancel()
            await asyncio.wait(work)


class TestLockout:
    """Who fails often has to wait."""

    async def test_pauses_grow_and_end_with_a_success(self, harness: AppHarness) -> None:
        await ann(harness)

        async def fail() -> Rejected:
            with pytest.raises(Rejected) as caught:
                await Client(harness).call("log_in", login="ann@example.com", password=OTHER)
            return caught.value

        for _ in range(6):
            assert (await fail()).reason == "wrong_credentials"
        pauses: list[float] = []
        for _ in range(3):
            refusal = await fail()
            assert isinstance(refusal, TooManyAttempts)
            pauses.append(refusal.retry_after_seconds)
            harness.clock.advance(seconds=refusal.retry_after_seconds)
            assert (await fail()).reason == "wrong_credentials"
        assert pauses == [1.0, 2.0, 4.0]
        # The right password has to wait as well: else the pause would tell that it is right.
        with pytest.raises(TooManyAttempts):
            await Client(harness).call("log_in", login="ann@example.com", password=PASSWORD)
        harness.clock.advance(seconds=8)
        await Client(harness).call("log_in", login="ann@example.com", password=PASSWORD)
        assert (await fail()).reason == "wrong_credentials"

    async def test_it_is_the_same_for_a_login_that_nobody_has(self, harness: AppHarness) -> None:
        await ann(harness)
        answers: dict[str, list[str]] = {}
        for login in ("ann@example.com", "nobody@example.com"):
            for number in range(8):
                with pytest.raises(Rejected) as caught:
                    await Client(harness, host=f"192.0.2.{number}").call("log_in", login=login, password=OTHER)
                answers.setdefault(login, []).append(str(caught.value))
        assert answers["ann@example.com"] == answers["nobody@example.com"]
        assert answers["ann@example.com"][-1].startswith("too_many_attempts")

    async def test_an_address_that_tries_many_accounts_has_to_wait(self, harness: AppHarness) -> None:
        found: list[str] = []
        for number in range(23):
            with pytest.raises(Rejected) as caught:
                await Client(harness, host="2001:db8::1").call("log_in", login=f"user{number}", password=OTHER)
            found.append(caught.value.reason)
        assert found == ["wrong_credentials"] * 21 + ["too_many_attempts"] * 2
        # The rest of its /64 is the same household.
        with pytest.raises(TooManyAttempts):
            await Client(harness, host="2001:db8::2").call("log_in", login="x", password=OTHER)
        with refused("wrong_credentials"):
            await Client(harness, host="2001:db8:0:1::2").call("log_in", login="x", password=OTHER)

    async def test_many_at_a_time_gain_nothing(self, harness: AppHarness) -> None:
        await ann(harness)
        calls = [Client(harness).call("log_in", login="ann@example.com", password=OTHER) for _ in range(15)]
        found = await asyncio.gather(*calls, return_exceptions=True)
        assert sorted(one.reason for one in found if isinstance(one, Rejected)).count("wrong_credentials") == 6

    async def test_it_is_forgotten_after_a_day(self, harness: AppHarness) -> None:
        for _ in range(6):
            with refused("wrong_credentials"):
                await Client(harness).call("log_in", login="x", password=OTHER)
        harness.clock.advance(seconds=86_401)
        for _ in range(5):
            with refused("wrong_credentials"):
                await Client(harness).call("log_in", login="x", password=OTHER)


class TestSessions:
    """Tokens, and how they end."""

    async def test_an_access_token_expires_and_is_refreshed(self, harness: AppHarness) -> None:
        client = await ann(harness)
        harness.clock.advance(seconds=601)
        with refused("not_authenticated"):
            await client.whoami()
        client.access = ""
        await client.call("refresh", refresh_token=client.refresh)
        assert await client.whoami() == client.user

    async def test_a_websocket_lives_as_long_as_its_newest_token(self, harness: AppHarness) -> None:
        client = await ann(harness)
        request = client.request()
        known = await client.accounts.authenticate(request)
        assert known is not None
        assert await known.remaining() == 600
        harness.clock.advance(seconds=500)
        assert await known.remaining() == 100
        renewed = await client.call("refresh", refresh_token=client.refresh)
        known.changed.clear()
        context = Context(user=known.user, request=request, controller=harness.controller)
        renew = harness.run.apis["accounts"]["renew_socket"]
        assert await renew.call(context, {"access_token": renewed.access_token}) == 600
        assert known.changed.is_set()
        harness.clock.advance(seconds=600)
        assert await known.remaining() == 0

    async def test_a_lost_answer_can_be_asked_for_again(self, harness: AppHarness) -> None:
        client = await ann(harness)
        used = client.refresh
        first = await client.call("refresh", refresh_token=used)
        harness.clock.advance(seconds=9)
        assert (await client.call("refresh", refresh_token=used)).refresh_token == first.refresh_token

    async def test_a_refresh_token_that_comes_again_ends_the_session(self, harness: AppHarness) -> None:
        client = await ann(harness)
        stolen = client.refresh
        await client.call("refresh", refresh_token=stolen)
        harness.clock.advance(seconds=11)
        with refused("not_authenticated"):
            await Client(harness).call("refresh", refresh_token=stolen)
        with refused("not_authenticated"):
            await client.whoami()
        client.access = ""
        with refused("not_authenticated"):
            await client.call("refresh", refresh_token=client.refresh)
        assert (await kinds(harness))[-1] == "refresh_reused"
        assert (await harness.store.find(AccountSession))[0].ended_by == "refresh_reused"

    async def test_an_unused_refresh_token_and_an_old_session_end(self, harness: AppHarness) -> None:
        client = await ann(harness)
        harness.clock.advance(seconds=timedelta(days=14).total_seconds() + 1)
        with refused("not_authenticated"):
            await Client(harness).call("refresh", refresh_token=client.refresh)
        other = Client(harness)
        await other.call("log_in", login="ann@example.com", password=PASSWORD)
        for _ in range(13):
            harness.clock.advance(seconds=timedelta(days=7).total_seconds())
            other.access = ""
            try:
                await other.call("refresh", refresh_token=other.refresh)
            except Rejected:
                break
        else:
            pytest.fail("the session lived longer than 90 days")

    @pytest.mark.parametrize(
        "token", ["", "r1", "r1.1.1.x", "r1.1.99999999999999999999.x", "r1.-1.1.x", "r1.1.1.\u00e4", "a1.1.1.1.x"]
    )
    async def test_what_is_no_refresh_token(self, harness: AppHarness, token: str) -> None:
        client = await ann(harness)
        with refused("not_authenticated"):
            await Client(harness).call("refresh", refresh_token=token)
        assert await client.whoami() == client.user

    async def test_a_forged_generation_ends_nothing(self, harness: AppHarness) -> None:
        client = await ann(harness)
        head, session, _, mac = client.refresh.split(".")
        for generation in ("0", "2"):
            with refused("not_authenticated"):
                await Client(harness).call("refresh", refresh_token=f"{head}.{session}.{generation}.{mac}")
        assert await client.whoami() == client.user

    @pytest.mark.parametrize("part", range(5))
    async def test_a_changed_access_token(self, harness: AppHarness, part: int) -> None:
        client = await ann(harness)
        parts = client.access.split(".")
        parts[part] = {0: "a2", 4: "x" * 43}.get(part, "2")
        client.access = ".".join(parts)
        with refused("not_authenticated"):
            await client.whoami()

    async def test_log_out(self, harness: AppHarness) -> None:
        client, other = await ann(harness), Client(harness)
        await other.call("log_in", login="ann@example.com", password=PASSWORD)
        await client.call("log_out")
        with refused("not_authenticated"):
            await client.whoami()
        assert await other.whoami() == client.user
        await other.call("log_out_everywhere")
        with refused("not_authenticated"):
            await other.whoami()

    async def test_one_sees_and_ends_ones_own_sessions(self, harness: AppHarness) -> None:
        client, other, bob = await ann(harness), Client(harness), Client(harness)
        await other.call("log_in", login="ann@example.com", password=PASSWORD, label="phone")
        await bob.call("register", login="bob", password=PASSWORD)
        found = await client.call("sessions")
        assert {(one.label, one.current, one.address) for one in found} == {
            ("", True, "192.0.2.1"),
            ("phone", False, "192.0.2.1"),
        }
        await bob.call("end_session", session=other.session)
        assert await other.whoami() == client.user
        await client.call("end_session", session=other.session)
        with refused("not_authenticated"):
            await other.whoami()

    async def test_a_user_who_is_deleted_is_nobody(self, harness: AppHarness) -> None:
        client = await ann(harness)
        await harness.store.delete(User, client.user)
        with refused("not_authenticated"):
            await client.whoami()
        assert await harness.store.count(AccountCredential) == 0
        assert (await harness.store.find("AccountEvent"))[0].user is None

    async def test_another_process_hears_of_a_revocation_within_the_interval(self, sqlite_url: str) -> None:
        async with quick(accounts_app(), database=sqlite_url) as one, quick(accounts_app(), database=sqlite_url) as two:
            client, there = await ann(one), Client(two)
            there.access = client.access
            assert await there.whoami() == client.user
            await client.call("log_out")
            two.clock.advance(seconds=4.9)
            assert await there.whoami() == client.user
            two.clock.advance(seconds=0.2)
            with refused("not_authenticated"):
                await there.whoami()

    async def test_a_secret_can_be_replaced(self, sqlite_url: str) -> None:
        async with quick(accounts_app(), database=sqlite_url) as harness:
            client = await ann(harness)
        renewed = accounts_app(secret="b" * 32, previous_secrets=[SECRET])
        async with quick(renewed, database=sqlite_url) as harness:
            client.harness = harness
            assert await client.whoami() == client.user
            await client.call("refresh", refresh_token=client.refresh)
        async with quick(accounts_app(secret="b" * 32), database=sqlite_url) as harness:
            client.harness = harness
            assert await client.whoami() == client.user

    async def test_the_user_can_be_read_for_each_request(self) -> None:
        async with quick(accounts_app(user_fields=[User.name])) as harness:
            client = await ann(harness)
            known = await client.accounts.authenticate(client.request())
            assert known is not None
            assert known.user.name == "Ann"


@pytest.mark.parametrize("url", ["sqlite_url", "postgres_url"])
async def test_what_happens_at_a_time_happens_once(url: str, request: pytest.FixtureRequest) -> None:
    """Registration, refreshing and failing, by many at a time on a database of either kind."""
    async with quick(accounts_app(), database=request.getfixturevalue(url)) as harness:

        async def all_at_once(name: str, **payload: Any) -> tuple[list[Any], list[str]]:
            calls = [Client(harness).call(name, **payload) for _ in range(8)]
            found = await asyncio.gather(*calls, return_exceptions=True)
            unexpected = [one for one in found if isinstance(one, Exception) and not isinstance(one, Rejected)]
            assert unexpected == []
            return [one for one in found if not isinstance(one, Rejected)], [
                one.reason for one in found if isinstance(one, Rejected)
            ]

        (signed_in,), reasons = await all_at_once("register", login="ann", password=PASSWORD)
        assert reasons == ["login_taken"] * 7
        assert await harness.store.count(User) == 1
        refreshed, _ = await all_at_once("refresh", refresh_token=signed_in.refresh_token)
        assert len({one.refresh_token for one in refreshed}) == 1
        _, reasons = await all_at_once("log_in", login="ann", password=OTHER)
        assert sorted(reasons) == ["too_many_attempts"] * 2 + ["wrong_credentials"] * 6
        await harness.integration("accounts")._prune()
        harness.clock.advance(seconds=timedelta(days=400).total_seconds())
        await harness.integration("accounts")._prune()
        for record in (AccountSession, AccountToken, AccountAttempt, AccountEvent):
            assert await harness.store.count(record) == 0


class TestPasswords:
    """Changing and resetting them."""

    async def test_a_change_ends_the_other_sessions(self, harness: AppHarness) -> None:
        client, other = await ann(harness), Client(harness)
        await other.call("log_in", login="ann@example.com", password=PASSWORD)
        with refused("wrong_credentials"):
            await client.call("change_password", current_password=OTHER, new_password=OTHER)
        await client.call("change_password", current_password=PASSWORD, new_password=OTHER)
        assert await client.whoami() == client.user
        with refused("not_authenticated"):
            await other.whoami()
        with refused("wrong_credentials"):
            await Client(harness).call("log_in", login="ann@example.com", password=PASSWORD)
        await Client(harness).call("log_in", login="ann@example.com", password=OTHER)

    async def test_a_reset(self, confirmed: AppHarness, mailbox: Mailbox) -> None:
        client = await registered(confirmed, mailbox)
        for _ in range(8):
            with pytest.raises(Rejected):
                await Client(confirmed).call("log_in", login="ann", password=OTHER)
        await Client(confirmed).call("request_password_reset", login="ANN")
        await confirmed.drain()
        token = mailbox.token("reset", "ann")
        with pytest.raises(InvalidValue):
            await Client(confirmed).call("reset_password", token=token, new_password="short")
        await Client(confirmed).call("reset_password", token=token, new_password=OTHER)
        with refused("not_authenticated"):
            await client.whoami()
        # Who was reset need not wait for what others guessed.
        await Client(confirmed, host="192.0.2.9").call("log_in", login="ann", password=OTHER)
        with refused("token_invalid"):
            await Client(confirmed).call("reset_password", token=token, new_password=PASSWORD)

    async def test_a_reset_of_what_does_not_exist_is_answered_alike(
        self, confirmed: AppHarness, mailbox: Mailbox
    ) -> None:
        await registered(confirmed, mailbox)
        sent = len(mailbox.messages)
        answers = []
        for login in ("ann", "nobody"):
            answers.append(await Client(confirmed).call("request_password_reset", login=login))
            await confirmed.drain()
        assert answers[0] == answers[1]
        assert [message.login for message in mailbox.messages[sent:]] == ["ann"]

    async def test_a_token_expires_and_serves_one_purpose(self, confirmed: AppHarness, mailbox: Mailbox) -> None:
        await registered(confirmed, mailbox)
        await Client(confirmed).call("request_password_reset", login="ann")
        await confirmed.drain()
        token = mailbox.token("reset", "ann")
        with refused("token_invalid"):
            await Client(confirmed).call("confirm_registration", token=token)
        with refused("token_invalid"):
            await Client(confirmed).call("reset_password", token=token[:-1] + "x", new_password=OTHER)
        confirmed.clock.advance(seconds=1801)
        with refused("token_invalid"):
            await Client(confirmed).call("reset_password", token=token, new_password=OTHER)

    async def test_a_message_is_sent_again_until_it_is_taken(self, confirmed: AppHarness, mailbox: Mailbox) -> None:
        mailbox.fail = OSError("the mail server is away")
        await Client(confirmed).call("request_registration", login="ann", password=PASSWORD)
        await confirmed.drain()
        mailbox.fail = None
        confirmed.clock.advance(seconds=60)
        await confirmed.drain(waiting=True)
        await Client(confirmed).call("confirm_registration", token=mailbox.token("register", "ann"))


async def registered(harness: AppHarness, mailbox: Mailbox) -> Client:
    client = Client(harness)
    await client.call("request_registration", login="ann", password=PASSWORD, profile={"name": "Ann"})
    await harness.drain()
    await client.call("confirm_registration", token=mailbox.token("register", "ann"))
    return client


class TestConfirmation:
    """Registrations that are confirmed by a message."""

    async def test_there_is_nobody_until_then(self, confirmed: AppHarness, mailbox: Mailbox) -> None:
        await Client(confirmed).call("request_registration", login="ann", password=PASSWORD)
        await confirmed.drain()
        assert await confirmed.store.count(User) == 0
        client = await registered(confirmed, mailbox)
        assert (await confirmed.store.get(User, await client.whoami())).name == "Ann"

    async def test_a_login_that_is_taken_is_answered_alike_and_its_owner_told(
        self, confirmed: AppHarness, mailbox: Mailbox
    ) -> None:
        await registered(confirmed, mailbox)
        answers = [
            await Client(confirmed).call("request_registration", login=login, password=OTHER)
            for login in ("ann", "bob")
        ]
        await confirmed.drain()
        assert answers[0] == answers[1]
        told = {message.login: message for message in mailbox.messages}
        assert (told["ann"].purpose, told["ann"].token) == ("exists", "")
        assert told["bob"].purpose == "register"
        await Client(confirmed).call("log_in", login="ann", password=PASSWORD)

    async def test_each_message_stands_for_the_password_it_came_with(
        self, confirmed: AppHarness, mailbox: Mailbox
    ) -> None:
        await Client(confirmed).call("request_registration", login="ann", password=OTHER)
        await confirmed.drain()
        stranger = mailbox.token("register", "ann")
        await registered(confirmed, mailbox)
        with refused("login_taken"):
            await Client(confirmed).call("confirm_registration", token=stranger)
        with refused("wrong_credentials"):
            await Client(confirmed).call("log_in", login="ann", password=OTHER)
