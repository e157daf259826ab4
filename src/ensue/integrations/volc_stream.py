"""Live video over Volcengine: each stream of an app has a signed address to push to and one to pull from.

Decides how an address is signed, how long it is good for and when it is signed anew. Leaves what streams there are to
the application: whatever it declares as a `Stream` gets its addresses. Invariants: an address follows from the stream's
name, its expiry and the key alone, so `ensue check` can tell a wrong one; the key is in no record, message or log.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, cast

from ensue.errors import DeclarationError, InvalidValue, NotFound, Problem
from ensue.integrations.contract import Integration
from ensue.integrations.settings.environment import WRONG_SETTING, env
from ensue.schema.computations.custom import Custom
from ensue.schema.computations.machine import Mutation, State, StateMachine, Transition
from ensue.schema.effect import Effect, SideEffect
from ensue.schema.entity import Entity
from ensue.schema.interaction import Interaction
from ensue.schema.property import Property

if TYPE_CHECKING:
    from ensue.engine.controller import Controller
    from ensue.schema.schema import Schema

PullFormat: TypeAlias = Literal["rtmp", "flv", "hls"]

# "." and ".." are steps in a path, which whoever reads the address takes before the server does.
_NAME: Final = re.compile(r"(?!\.{1,2}\Z)[A-Za-z0-9_.-]{1,100}")
_DOMAIN: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::[0-9]{1,5})?")
_PULL: Final[Mapping[PullFormat, tuple[str, str]]] = {
    "rtmp": ("rtmp", ""),
    "flv": ("https", ".flv"),
    "hls": ("https", ".m3u8"),
}
_RENEWED_AT_ONCE: Final = 500


class Stream(Entity, abstract=True):
    """A live video stream; declare your own as subclasses.

    `push_url` is where to send it, `pull_url` where to watch it, both good until `urls_expire_at`; `renewals` counts how
    often they were signed anew. All four are computed by `VolcStream`. Whoever may read `push_url` may broadcast.

    >>> class Broadcast(Stream):
    ...     title: Property[str]
    """

    name: Property[str] = Property(unique=True)
    push_url: Property[str] = Property(default="")
    pull_url: Property[str] = Property(default="")
    urls_expire_at: Property[datetime | None] = Property(default=None)
    renewals: Property[int] = Property(default=0)


class StreamRenewal(Entity):
    """The addresses of one stream are to be signed anew: create one, and they are.

    >>> await store.create(StreamRenewal(stream_type="Broadcast", stream_id=7))  # doctest: +SKIP
    """

    stream_type: Property[str]
    stream_id: Property[int]


class VolcStream(Integration):
    """Signed push and pull addresses for every `Stream` of the app, made when a stream is created.

    They are good for `lifetime` and signed anew when a `StreamRenewal` is created for the stream, when one of the
    interactions in `renew_on` is dispatched (its field `stream` names the stream), and, with `renew_before`, by
    themselves that long before they expire. Each domain has a key of its own; without `pull_key` pull addresses are not
    signed.

    >>> VolcStream(push_domain="push.example.com", pull_domain="pull.example.com", key="…", renew_on={Broadcast: Renew})
    """

    push_domain: str = env("VOLC_STREAM_PUSH_DOMAIN")
    pull_domain: str = env("VOLC_STREAM_PULL_DOMAIN")
    application: str = env("VOLC_STREAM_APPLICATION", default="live")
    key: str = env("VOLC_STREAM_KEY")
    pull_key: str = env("VOLC_STREAM_PULL_KEY", default="")
    pull_format: PullFormat = env("VOLC_STREAM_PULL_FORMAT", default="flv")
    lifetime: timedelta = env("VOLC_STREAM_LIFETIME", default=timedelta(days=1))
    renew_before: timedelta | None = env("VOLC_STREAM_RENEW_BEFORE", default=None)
    renew_on: Mapping[type[Stream], type[Interaction]] = {}

    async def configure(self, schema: Schema) -> None:
        self._refuse_wrong_times()
        self._streams = tuple(schema.subclasses(Stream))
        schema.entities.add(StreamRenewal)
        for stream in self._streams:
            for name, computation in self._computations(stream).items():
                schema.property(stream, name).computation = computation

    async def setup(self, controller: Controller) -> None:
        self._refuse_wrong_places()
        self._store = controller.store

    def create_side_effects(self) -> list[SideEffect]:
        if self.renew_before is None:
            return []
        delay = self.lifetime - self.renew_before
        return [self._renewal_of(stream, delay) for stream in self._streams]

    async def renew_all(self, stream: type[Stream]) -> int:
        """Sign the addresses of every `stream` anew, after a key was changed, say; gives how many there were."""
        last, renewed = 0, 0
        while True:
            found = await self._store.find(stream, stream.id > last, order_by=[stream.id], limit=_RENEWED_AT_ONCE)
            if not found:
                return renewed
            await self._store.create_many(
                StreamRenewal(stream_type=stream.__name__, stream_id=item.id) for item in found
            )
            last, renewed = found[-1].id, renewed + len(found)

    def _computations(self, stream: type[Stream]) -> dict[str, Any]:
        return {
            "renewals": _counter(stream, self.renew_on.get(stream)),
            # Incremental: what it gives depends on when it is called, and a check would find that it differs.
            "urls_expire_at": Custom(
                initial=lambda record: self._expiry(),
                incremental=lambda last, event, record: self._expiry(),
                uses=lambda it: [it.renewals],
            ),
            "push_url": self._address(self._push_url),
            "pull_url": self._address(self._pull_url),
        }

    def _address(self, sign: Callable[[str, datetime], str]) -> Custom[Any]:
        return Custom(
            compute=lambda record, inputs: sign(record.name, record.urls_expire_at),
            uses=lambda it: [it.name, it.urls_expire_at],
        )

    def _expiry(self) -> datetime:
        # Whole seconds, which is what is signed.
        return (self.clock.now() + self.lifetime).replace(microsecond=0)

    def _push_url(self, name: str, expires_at: datetime) -> str:
        path = stream_path(self.application, name)
        return signed_url(f"rtmp://{self.push_domain}{path}", path, key=self.key, expires_at=expires_at)

    def _pull_url(self, name: str, expires_at: datetime) -> str:
        scheme, suffix = _PULL[self.pull_format]
        path = stream_path(self.application, name)
        url = f"{scheme}://{self.pull_domain}{path}{suffix}"
        return signed_url(url, path, key=self.pull_key, expires_at=expires_at) if self.pull_key else url

    def _renewal_of(self, stream: type[Stream], delay: timedelta) -> SideEffect:
        async def renew(effect: Effect[Any]) -> None:
            try:
                current = await self._store.get(stream, effect.record.id)
            except NotFound:
                return
            # Otherwise they were signed anew meanwhile, and this is about addresses that nobody has any more.
            if current.urls_expire_at == effect.record.urls_expire_at:
                await self._store.create(StreamRenewal(stream_type=stream.__name__, stream_id=current.id))

        return SideEffect(
            f"renew_{stream.__name__}",
            stream,
            on={"create", "update"},
            of=[stream.urls_expire_at],
            content=renew,
            delay=delay,
        )

    def _refuse_wrong_places(self) -> None:
        for setting in ("push_domain", "pull_domain"):
            domain = getattr(self, setting)
            if not _DOMAIN.fullmatch(domain):
                raise self._wrong(f"{setting} is {domain!r}; expected a domain alone, such as push.example.com.")
        if not _NAME.fullmatch(self.application):
            raise self._wrong(f"application is {self.application!r}; expected 1 to 100 of A-Z a-z 0-9 _ . -")

    def _refuse_wrong_times(self) -> None:
        if self.lifetime <= timedelta(0):
            raise self._wrong(f"lifetime is {self.lifetime}; expected a time that addresses can be used in.")
        if self.renew_before is not None and not timedelta(0) < self.renew_before < self.lifetime:
            raise self._wrong(
                f"renew_before is {self.renew_before}; expected less than the lifetime, {self.lifetime}, and more than "
                "none."
            )

    def _wrong(self, text: str) -> DeclarationError:
        return DeclarationError(Problem(WRONG_SETTING, f"{self.namespace} (VolcStream).{text}"))


def stream_path(application: str, name: str) -> str:
    """The path of a stream, of which the signature is made. Raises `InvalidValue` for a name that no path can hold."""
    if not _NAME.fullmatch(name):
        raise InvalidValue(
            f"A stream can't be called {name!r}: expected 1 to 100 of the characters A-Z a-z 0-9 _ . -",
            fields={"name": "has characters that an address can't hold, or too many"},
        )
    return f"/{application}/{name}"


def signed_url(url: str, path: str, *, key: str, expires_at: datetime) -> str:
    """`url` with the two parameters that the service checks: when it expires, and MD5 over path, key and that time.

    >>> from datetime import UTC
    >>> at = datetime.fromtimestamp(1653632422, UTC)
    >>> signed_url("rtmp://push.example.com/live/livestream", "/live/livestream", key="A1B2C3d4e5f6", expires_at=at)[-32:]
    'e5bb77201cbaa2f9ccdd316fcda4c212'
    """
    timestamp = int(expires_at.timestamp())
    # The service prescribes MD5; it is keyed, and the key is nowhere else.
    signature = hashlib.md5(f"{path}{key}{timestamp}".encode(), usedforsecurity=False).hexdigest()
    return f"{url}?volcTime={timestamp}&volcSecret={signature}"


def _counter(stream: type[Stream], renew_on: type[Interaction] | None) -> StateMachine[Any]:
    """How often the addresses of a `stream` were to be signed anew."""
    node = State("signed", value=lambda last, event: (last or 0) + 1)
    created = Mutation("StreamRenewal", "create", where={"stream_type": stream.__name__})
    transitions = [Transition(node, node, on=created, record=lambda event: event.stream_id)]
    if renew_on is not None:
        transitions.append(Transition(node, node, on=renew_on, record=lambda event: cast("Any", event).stream))
    return StateMachine(states=[node], initial=node, transitions=transitions)
