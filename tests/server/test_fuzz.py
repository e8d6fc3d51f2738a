"""Requests that nobody would make, drawn from our own OpenAPI: none may end in an error of ours."""

from __future__ import annotations

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings

from vesalius.server.annotator import Annotator
from vesalius.server.app import create_app
from vesalius.server.documents import Document
from vesalius.server.security import Rules
from vesalius.server.workspace import Workspace

TOKEN = "secret"


@pytest.fixture(scope="module")
def served(tmp_path_factory, predictor, make_images):
    annotator = Annotator(Workspace([make_images(tmp_path_factory.mktemp("fuzz") / "images")]), predictor)
    app = create_app(annotator, Rules(TOKEN))
    yield annotator, app
    annotator.close()


@pytest.mark.slow
def test_no_request_ends_in_an_error_of_ours(served):
    annotator, app = served
    known = {"Authorization": f"Bearer {TOKEN}"}
    schema = schemathesis.openapi.from_asgi("/openapi.json", app, headers=known)
    asked = set()
    for operation in (found.ok() for found in schema.get_all_operations()):

        @given(case=operation.as_strategy())
        @settings(
            max_examples=8, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
        )
        def ask(case):
            if case.path_parameters and "image" in case.path_parameters:
                images = list(annotator.workspace.items)
                case.path_parameters["image"] = images[len(str(case.body)) % len(images)]
            if case.query and "wait" in case.query:
                case.query["wait"] = 0
            session = annotator.sessions.create()
            answer = case.call(headers={**known, "X-Vesalius-Session": session})
            annotator.sessions.end(session)
            assert answer.status_code < 500 or answer.status_code == 503, (case.as_curl_command(), answer.text)
            if answer.status_code >= 400:
                assert {"code", "message", "remedy"} == answer.json()["error"].keys()
            asked.add((case.method, case.path, answer.status_code < 400))

        ask()
    assert len({(method, path) for method, path, _ in asked}) > 30
    assert ("POST", "/api/images/{image}/actions", True) in asked
    for image, item in annotator.workspace.items.items():
        if item.log.exists():
            assert Document(item.log, None).state == annotator.workspace.document(image).state
