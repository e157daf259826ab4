"""`python -m examples.drawings`: a service that answers at once, as a task like any other; here a double of it."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from ensue import App, AsyncTask, Property, TaskEvent
from ensue.integrations.openai_images import OpenAIImages
from ensue.testing import Answer, AppHarness, HttpDouble


class Drawing(AsyncTask):
    prompt: Property[str]


# Our service folds repeats of a key for a day: an answer that is lost costs nothing.
images = OpenAIImages(tasks=Drawing, key_ttl=timedelta(days=1))
app = App(entities=[Drawing], integrations={"images": images})


async def main() -> None:
    """Ask for a drawing; the first answer is lost on its way, and the drawing is made once all the same."""
    async with HttpDouble(idempotency_header="Idempotency-Key") as service:
        made = {"data": [{"url": "https://images/1.png"}], "usage": {"total_tokens": 120}}
        service.queue("POST /images/generations", Answer.ok(made).lost())
        service.on("POST /images/generations", made)
        async with AppHarness(app, env={"OPENAI_API_KEY": "sk-test", "OPENAI_BASE_URL": service.url}) as harness:
            drawing = await harness.store.create(Drawing(prompt="a lighthouse"))
            await harness.advance(60)
            drawing = await harness.store.get(Drawing, drawing.id)
            print(f"{drawing.status} {drawing.result}")
            told = await harness.store.find(TaskEvent)
            print(" → ".join(["queued", *(event.status for event in told)]))
            print(f"asked {len(service.requests)} times, made {sum(service.accepted_keys.values())}")


if __name__ == "__main__":
    asyncio.run(main())
