"""`python -m examples.pictures`: pictures by Volcengine, here by a double of it, followed until they are done."""

from __future__ import annotations

import asyncio

from ensue import App, AsyncTask, Count, Effect, Entity, Integration, Many, One, Property, side_effect
from ensue.integrations.volc_pictures import VolcPictures
from ensue.testing import AppHarness, HttpDouble

SUBMIT = "POST /?Action=CVSync2AsyncSubmitTask"
GET_RESULT = "POST /?Action=CVSync2AsyncGetResult"


class User(Entity):
    name: Property[str]
    pictures = Many(lambda: Picture, inverse="owner")
    ready = Count(pictures, where=lambda picture: picture.status == "completed")


class Picture(AsyncTask):
    prompt: Property[str]
    owner: One[User]


class Notices(Integration):
    """Tells the owner how a picture ended, whoever brought the end."""

    @side_effect(
        Picture,
        on="update",
        of=[Picture.status],
        where=lambda picture: picture.status.in_(["completed", "failed"]),
        fields=[Picture.owner.name],
    )
    async def tell(self, effect: Effect[Picture]) -> None:
        picture = effect.record
        print(f"{picture.owner.name}: {picture.prompt!r} is {picture.status}: {picture.error or picture.result}")


app = App(user=User, entities=[Picture], integrations={"pictures": VolcPictures(tasks=Picture), "notices": Notices()})


def answer(code: int = 10000, message: str = "Success", **data: object) -> dict[str, object]:
    """An answer of the service."""
    return {"code": code, "message": message, "data": data or None, "request_id": "r"}


async def main() -> None:
    """Ask for two pictures, of which the second is refused."""
    async with HttpDouble() as service:
        service.queue(SUBMIT, answer(task_id="7"), answer(50411, "Text risk"))
        service.queue(GET_RESULT, answer(status="in_queue"), answer(status="generating"))
        service.on(GET_RESULT, answer(status="done", image_urls=["https://links/1.jpg"]))
        settings = {"VOLC_ACCESS_KEY": "AK", "VOLC_SECRET_KEY": "SK", "VOLC_VISUAL_ENDPOINT": service.url}
        async with AppHarness(app, env=settings) as harness:
            ann = await harness.store.create(User(name="Ann"))
            await harness.store.create(Picture(prompt="a lighthouse", owner=ann))
            await harness.drain()
            await harness.store.create(Picture(prompt="something bad", owner=ann))
            await harness.advance(60)
            print(f"ready: {(await harness.store.get(User, ann.id)).ready}")


if __name__ == "__main__":
    asyncio.run(main())
