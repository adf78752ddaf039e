"""The ring of recent errors: bounded, latest first, and not to be flushed from outside."""

from models.schemas import ModelId
from services.recent_errors import ErrorRing
from utils import logs


def test_the_latest_come_first_and_the_oldest_fall_out() -> None:
    ring = ErrorRing(kept=3)
    for number in range(5):
        ring.note_problem(f"code_{number}", 503, method="GET", route=None)
    report = ring.report(limit=10)
    assert [each.code for each in report.errors] == ["code_4", "code_3", "code_2"]
    assert report.seen == 5
    assert [each.code for each in ring.report(limit=1).errors] == ["code_4"]


def test_a_scanners_refusals_push_out_nothing_of_ours() -> None:
    ring = ErrorRing(kept=2)
    ring.note_problem("internal_error", 500, method="POST", route="/upscale")
    ring.note_failure(ModelId.KIE_RECRAFT, "provider_error")
    for _ in range(50):
        ring.note_problem("missing_key", 401, method="GET", route=None)
    codes = [each.code for each in ring.report(limit=100).errors]
    assert codes == ["missing_key"] * 2 + ["provider_error", "internal_error"]


def test_an_entry_names_the_request_and_the_key() -> None:
    ring = ErrorRing()
    request, key = logs.request_id.set("order-4711"), logs.key_id.set("shop")
    ring.note_failure(ModelId.KIE_RECRAFT, "provider_error")
    logs.request_id.reset(request)
    logs.key_id.reset(key)
    (entry,) = ring.report(limit=1).errors
    assert (entry.request_id, entry.key, entry.model) == ("order-4711", "shop", "kie-recraft")
    assert (entry.status, entry.route) == (None, None)
