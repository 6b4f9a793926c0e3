"""/openapi.json is true to what is served: requests that schemathesis draws from it."""

from __future__ import annotations

import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from gpt2x.serve.app import Limits
from gpt2x.serve.openapi import OPERATIONS
from support.serving import served_model, serving

pytest.importorskip("schemathesis")

import schemathesis
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS, load_all_checks

load_all_checks()

#: What the document allows may still not fit the model, which is an error as it should be.
EXCLUDED = CHECKS.get_by_names(["positive_data_acceptance"])

ASKED = [(each, GenerationMode.POSITIVE) for each in OPERATIONS]
ASKED += [(each, GenerationMode.NEGATIVE) for each in OPERATIONS if each.body is not None]


@pytest.fixture(scope="module")
def schema():
    """The document of a server whose texts take a short time at most."""
    served = served_model(rows=8, max_queue=64)
    with serving(served, limits=Limits(max_time=0.2)) as server:
        document = httpx.get(f"{server.url}/openapi.json").json()
        schema = schemathesis.openapi.from_dict(document)
        schema.config.update(base_url=server.url)
        yield schema


@pytest.mark.parametrize(
    ("asked", "mode"), ASKED, ids=[f"{each.path}-{mode.value}" for each, mode in ASKED]
)
def test_answers_are_as_the_document_says(schema, asked, mode):
    operation = schema[asked.path][asked.method]

    @settings(
        max_examples=12 if asked.body else 3,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case):
        case.call_and_validate(excluded_checks=EXCLUDED)

    check()


def test_the_document_names_bodies_answers_and_the_key(schema):
    document = schema.raw_schema
    assert document["openapi"] == "3.1.0"
    completions = document["paths"]["/v1/completions"]["post"]
    body = completions["requestBody"]["content"]["application/json"]["schema"]
    fields = document["components"]["schemas"][body["$ref"].rpartition("/")[2]]["properties"]
    assert {"prompt", "max_tokens", "logprobs", "top_k", "regex", "num_beams"} <= set(fields)
    errors = {"400", "401", "404", "413", "422", "429", "500", "503"}
    assert set(completions["responses"]) == {"200"} | errors
    assert set(completions["responses"]["200"]["content"]) == {
        "application/json",
        "text/event-stream",
    }
    assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    assert document["paths"]["/health"]["get"]["security"] == []
