"""The live check asks what it says it asks; here it is pointed at the sandbox."""

import pytest

from config import ProviderSettings
from scripts.check_providers import check
from tests.sandbox_thread import running_sandbox

pytestmark = pytest.mark.anyio


async def test_it_reports_cost_latency_and_the_open_questions() -> None:
    with running_sandbox() as sandbox:
        settings = ProviderSettings.model_validate(
            {
                "runware_api_key": "sandbox-check",
                "kie_api_key": "sandbox-check",
                "runware_url": sandbox.runware_ws,
                "kie_api_url": sandbox.kie_api,
                "kie_upload_url": sandbox.kie_upload,
            }
        )
        findings = {each.question: each.answer for each in await check(settings)}
    assert "cost 0.018" in findings["Runware bria:2@1, PNG"]
    assert "with transparency" in findings["Runware runware:112@10, PNG"]
    # the documented trap: without a format the answer is a JPEG
    assert "WITHOUT transparency" in findings["Runware runware:112@10, no outputFormat given"]
    assert "missingAuthentication" in findings["Runware, a task before authentication"]
    assert '"state": "success"' in findings["Kie.ai, task"]
    assert "with transparency" in findings["Kie.ai, result"]
    assert not any("sandbox-check" in answer for answer in findings.values())


async def test_a_missing_key_is_said_and_a_refused_one_is_a_failure() -> None:
    with running_sandbox() as sandbox:
        settings = ProviderSettings.model_validate(
            {
                "kie_api_key": "wrong",
                "kie_api_url": sandbox.kie_api,
                "kie_upload_url": sandbox.kie_upload,
            }
        )
        runware, kie = await check(settings)
    assert "not set" in runware.answer
    assert kie.answer.startswith("FAILED")
