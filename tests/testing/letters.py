"""An integration as somebody else would write it: letters are sent through a web service."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx2

from ensue import App, Effect, Entity, Health, Integration, Property, env, side_effect

if TYPE_CHECKING:
    from ensue import Controller


class Letter(Entity):
    text: Property[str]
    reference: Property[str | None] = Property(default=None)


class Letters(Integration):
    """Sends each new letter, once: the service folds repeats by the key."""

    url: str = env("LETTERS_URL")
    api_key: str = env("LETTERS_API_KEY")

    async def setup(self, controller: Controller) -> None:
        client = httpx2.AsyncClient(base_url=self.url, timeout=10, trust_env=False)
        self.client = await self.enter(client, name="http")
        self.last_failure = ""

    async def health(self) -> Health:
        return Health(up=not self.last_failure, detail=self.last_failure)

    @side_effect(Letter, on="create")
    async def send(self, effect: Effect[Letter]) -> None:
        headers = {"Idempotency-Key": effect.key, "Authorization": f"Bearer {self.api_key}"}
        try:
            answer = await self.client.post("/letters", json={"text": effect.record.text}, headers=headers)
        except httpx2.TransportError as failure:
            self.last_failure = f"no answer: {type(failure).__name__}"
            raise
        self.last_failure = ""
        answer.raise_for_status()


def letters_app(integration: Integration) -> App:
    return App(entities=[Letter], integrations={"letters": integration})
