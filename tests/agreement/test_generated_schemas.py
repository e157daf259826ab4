"""Random applications with random scripts against the slow model, on both databases."""

import hypothesis
from hypothesis import strategies as st

from ensue.testing.generate_operations import operations
from ensue.testing.generate_schemas import build, generated_schemas
from tests.agreement.running import Bench, Declared, examples


def test_every_schema_and_script_agrees_with_the_slow_model(url: str) -> None:
    @examples(24, url)
    @hypothesis.given(generated_schemas(), st.data())
    def check(spec: object, data: st.DataObject) -> None:
        built = build(spec)
        with Bench(Declared(built.entities, built.globals), url) as bench:
            bench.run(data.draw(operations(bench.model), label="script"))

    check()


def test_how_a_script_is_run_does_not_matter_in_any_schema(url: str) -> None:
    @examples(8, url)
    @hypothesis.given(generated_schemas(), st.data())
    def check(spec: object, data: st.DataObject) -> None:
        built = build(spec)
        with Bench(Declared(built.entities, built.globals), url) as bench:
            script = data.draw(operations(bench.model, max_size=6), label="script")
            results = [bench.run(script, size="small", reads=True), bench.run(script, size="bulk")]
            if not any(result.exceptions for result in results):
                assert results[0].image == results[1].image

    check()
