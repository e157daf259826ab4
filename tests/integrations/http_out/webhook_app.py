"""An app whose posts are told to endpoints, and a service that receives them."""

from __future__ import annotations

from typing import Any

from standardwebhooks import Webhook

from ensue import App, Entity, One, Property
from ensue.integrations.http_out import HttpOut, OnCreate, OnDelete, OnUpdate
from ensue.testing import AppHarness, HttpDouble, RecordedRequest

SECRET = "a secret of thirty-two bytes or more"


class User(Entity):
    name: Property[str]


class Post(Entity):
    title: Property[str]
    views: Property[int] = Property(default=0)
    author: One[User]


EVENTS = {
    "post.created": OnCreate(Post, fields=[Post.author.name]),
    "post.renamed": OnUpdate(Post, of=[Post.title], data=lambda effect: {"title": effect.record.title}),
    "post.deleted": OnDelete(Post),
}


def webhook_app(service: HttpDouble | None = None, *, database: str = "sqlite:///:memory:", **settings: Any) -> App:
    """Endpoints may be on this machine, at the port of `service`."""
    local = {} if service is None else {"allowed_ports": [int(service.address.rpartition(":")[2])]}
    given = {
        "events": EVENTS,
        "secret": SECRET,
        "allow": lambda ctx: ctx.user is not None,
        "allow_http": True,
        "allowed_addresses": ["127.0.0.0/8"],
        **local,
        **settings,
    }
    return App(user=User, entities=[Post], integrations={"hooks": HttpOut(**given)}, database=database)


class Desk:
    """A user who manages endpoints and writes posts."""

    def __init__(self, harness: AppHarness, user: User) -> None:
        self.harness = harness
        self.user = user

    @classmethod
    async def open(cls, harness: AppHarness, name: str = "ann") -> Desk:
        return cls(harness, await harness.store.create(User(name=name)))

    async def call(self, name: str, **payload: Any) -> Any:
        return await self.harness.call("hooks", name, user=self.user, **payload)

    async def post(self, title: str = "Rain") -> Post:
        return await self.harness.store.create(Post(title=title, author=self.user))

    async def endpoint(self, endpoint: int) -> Any:
        (found,) = [one for one in await self.call("endpoints") if one.id == endpoint]
        return found

    async def log(self, endpoint: int) -> list[Any]:
        return await self.call("deliveries", endpoint=endpoint)


def verified(secret: str, request: RecordedRequest) -> Any:
    """The content of a request whose signature is right, by the reference implementation. Raises if it is not."""
    return Webhook(secret).verify(request.body, dict(request.headers))
