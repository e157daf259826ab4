"""`ensue integrations`: everything that integrations offer is told, and nothing that is secret."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ensue import (
    App,
    AsyncTask,
    Context,
    Effect,
    Entity,
    Health,
    Inbound,
    Incoming,
    Integration,
    Property,
    StandardWebhooks,
    TaskIntegration,
    TaskUpdate,
    api,
    consume,
    env,
    side_effect,
    webhook,
)
from ensue.cli import main
from tests.inbound.payments import SECRET

if TYPE_CHECKING:
    from ensue import Controller, Schema

HERE = "tests.cli.test_integrations"
TOLD = {"CRM_URL": "https://crm:pass-phrase@example.org/", "CRM_API_KEY": "key-of-crm", "CRM_HOOK_SECRET": SECRET}


class Customer(Entity):
    name: Property[str]


class Drawing(AsyncTask):
    prompt: Property[str]


class Crm(Integration):
    """Keeps a CRM informed of customers.

    More about it.
    """

    url: str = env("CRM_URL")
    api_key: str = env("CRM_API_KEY")
    region: str = env("CRM_REGION", default="eu")
    page_size: int = 50

    async def health(self) -> Health:
        return Health(up=True, detail="answers")

    @side_effect(Customer, on={"create", "delete"}, order_by=lambda customer: customer.id)
    async def push(self, effect: Effect[Customer]) -> None:
        """Never called here."""

    @side_effect(Customer, on="update", delivery="after_commit")
    async def hint(self, effect: Effect[Customer]) -> None:
        """Never called here."""

    @api(allow_anonymous=True)
    async def query(self, ctx: Context, customer_id: int, deep: bool = False) -> str:
        return ""

    @webhook(verify=StandardWebhooks(secret=env("CRM_HOOK_SECRET")), path="crm-changed", defer=True)
    async def changed(self, message: Inbound) -> Incoming:
        return None

    @consume("nats", subject="crm.>", stream="CRM", url=env("CRM_NATS", default="nats://localhost"))
    async def told(self, message: Inbound) -> Incoming:
        return None


class Drawings(TaskIntegration):
    """Draws."""

    tasks = Drawing
    expected_seconds = 3.0

    async def submit(self, task: Any, key: str) -> str:
        return "1"

    async def poll(self, external_id: str) -> TaskUpdate:
        return TaskUpdate(status="completed")


class Down(Integration):
    async def health(self) -> Health:
        return Health(up=False, detail="no answer since noon")


class Broken(Integration):
    async def setup(self, controller: Controller) -> None:
        raise OSError("no route to host")


class Paged(Integration):
    pages: int = env("CRM_PAGES", default=1)


class Reading(Integration):
    plan: str = env("READING_PLAN")
    size: int = env("READING_SIZE", default=1)

    async def configure(self, schema: Schema) -> None:
        if self.size > 1 and self.plan:
            pass


app = App(
    entities=[Customer, Drawing],
    integrations={"crm": Crm(page_size=20), "drawings": Drawings()},
    database="postgresql://nobody@127.0.0.1:1/never",
)
down = App(entities=[Customer], integrations={"down": Down()}, database="sqlite:///:memory:")
paged = App(entities=[Customer], integrations={"paged": Paged()}, database="sqlite:///:memory:")
reading = App(entities=[Customer], integrations={"reading": Reading()}, database="sqlite:///:memory:")
broken = App(entities=[Customer], integrations={"broken": Broken()}, database="sqlite:///:memory:")
nothing = App(entities=[Customer], database="sqlite:///:memory:")


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in TOLD.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("told")
def test_everything_is_told_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["integrations", f"{HERE}:app", "--json"]) == 0
    text = capsys.readouterr().out
    crm, drawings = json.loads(text)
    assert (crm["namespace"], crm["class_name"], crm["description"]) == (
        "crm",
        f"{HERE}.Crm",
        "Keeps a CRM informed of customers.",
    )
    assert crm["health"] == {"up": True, "detail": "answers"}
    assert {item["name"]: (item["value"], item["origin"], item["variable"]) for item in crm["settings"]} == {
        "url": ("'https://crm:<hidden>@example.org/'", "environment", "CRM_URL"),
        "api_key": ("<hidden>", "environment", "CRM_API_KEY"),
        "region": ("'eu'", "default", "CRM_REGION"),
        "page_size": ("20", "given", None),
        "changed.secret": ("<hidden>", "environment", "CRM_HOOK_SECRET"),
        "told.url": ("<hidden>", "default", "CRM_NATS"),
    }
    assert crm["side_effects"]["crm.push"]["on"] == ["create", "delete"]
    assert crm["side_effects"]["crm.push"]["ordered"] is True
    assert crm["side_effects"]["crm.hint"]["delivery"] == "after_commit"
    assert crm["apis"]["query"]["path"] == "/api/integrations/crm/query"
    assert crm["apis"]["query"]["parameters"] == {"customer_id": "int", "deep": "bool = False"}
    assert crm["webhooks"]["changed"] == {
        "path": "/api/webhooks/crm/crm-changed",
        "verified_by": "StandardWebhooks",
        "deferred": True,
    }
    assert crm["consumers"]["told"] == {"from": "nats", "subject": "crm.>", "stream": "CRM"}
    assert drawings["tasks"]["Drawing"]["first_poll_seconds"] == 3.0
    assert "drawings.submit" in "".join(drawings["side_effects"])
    for secret in ("pass-phrase", "key-of-crm", SECRET):
        assert secret not in text


@pytest.mark.usefixtures("told")
def test_a_person_reads_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["integrations", f"{HERE}:app"]) == 0
    text = capsys.readouterr().out
    for line in (
        f"crm  ({HERE}.Crm)",
        "  Keeps a CRM informed of customers.",
        "  health        up  answers",
        "  settings      url             'https://crm:<hidden>@example.org/'  (from CRM_URL)",
        "                region          'eu'  (default, or CRM_REGION)",
        "                page_size       20  (given to the constructor)",
        "  side effects  crm.push  Customer create/delete, durable, in order, to crm.push",
        "  API calls     POST /api/integrations/crm/query  (customer_id: int, deep: bool = False) for anybody",
        "  webhooks      POST /api/webhooks/crm/crm-changed  StandardWebhooks, handled after it was answered",
        "  consumers     told  from nats, subject crm.>, stream CRM",
        "  tasks         Drawing  polled after 3 s, then up to every 60 s; given up after 0:30:00",
    ):
        assert line in text.splitlines(), text
    for secret in ("pass-phrase", "key-of-crm", SECRET):
        assert secret not in text


def test_what_is_missing_is_told_and_nothing_is_connected(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in TOLD:
        monkeypatch.delenv(name, raising=False)
    assert main(["integrations", f"{HERE}:app"]) == 1
    text = capsys.readouterr().out
    assert "url             (MISSING, set CRM_URL)" in text
    assert "changed.secret  (MISSING, set CRM_HOOK_SECRET)" in text
    assert "unknown  not asked: CRM_API_KEY, CRM_HOOK_SECRET, CRM_URL must be set first" in text
    assert "API calls     POST /api/integrations/crm/query" in text


def test_a_setting_that_can_not_be_read_is_not_missing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRM_PAGES", "many")
    assert main(["integrations", f"{HERE}:paged"]) == 1
    text = capsys.readouterr().out
    assert "pages  (WRONG, what CRM_PAGES says is no int)" in text
    # It has no docstring, and that of all integrations is none of its own.
    assert text.splitlines()[1].startswith("  health        unknown  not asked: CRM_PAGES")


def test_a_setting_that_the_schema_needs_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("READING_SIZE", "2")
    for command in ("integrations", "check", "run"):
        assert main([command, f"{HERE}:reading"]) == 2
        assert "reading (Reading).plan is not set. Expected str in the environment" in capsys.readouterr().err


@pytest.mark.parametrize("module", ["uploads", "live_streams"])
def test_what_ours_lack_is_listed(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["integrations", f"examples.{module}:app"]) == 1
    assert "MISSING, set " in capsys.readouterr().out


def test_health_decides_the_exit_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["integrations", f"{HERE}:down"]) == 1
    assert "health        DOWN  no answer since noon" in capsys.readouterr().out
    assert main(["integrations", f"{HERE}:broken"]) == 1
    assert "DOWN  setting up failed: OSError: no route to host" in capsys.readouterr().out
    assert main(["integrations", f"{HERE}:down", "--offline"]) == 0
    assert "unknown  not asked" in capsys.readouterr().out
    assert main(["integrations", f"{HERE}:nothing"]) == 0
    assert capsys.readouterr().out == "The app has no integrations.\n"


@pytest.mark.usefixtures("told")
def test_the_apps_own_database_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "app.db"
    elsewhere = App(entities=[Customer], integrations={"crm": Crm()}, database=f"sqlite:///{path}")
    monkeypatch.setitem(globals(), "elsewhere", elsewhere)
    assert main(["integrations", f"{HERE}:elsewhere", "--json"]) == 0
    assert not path.exists()
    assert asyncio.run(elsewhere.freeze()).effects.keys() == {"crm.push", "crm.hint"}
