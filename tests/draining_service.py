"""The service in a process of its own, some of whose models never answer: `… TEMP_DIR PORT`."""

import sys
from pathlib import Path

import uvicorn

from main import create_app
from tests.answering import ISNET, KIE, KNOCKOUT, RMBG, Cutter, table
from tests.conftest import make_settings


def main(temp_dir: str, port: str) -> None:
    settings = make_settings(
        Path(temp_dir), drain_s=4, drain_notice_s=2, max_concurrent_jobs=1, deadline_s=30
    )
    models = table(
        Cutter(KNOCKOUT), Cutter(ISNET, held=True), Cutter(RMBG, held=True, sends=True), Cutter(KIE)
    )
    # as plainly as `uvicorn main:app`: nothing says how long it may wait
    uvicorn.run(create_app(settings, stand_ins=models), port=int(port), log_config=None)


if __name__ == "__main__":
    main(*sys.argv[1:])
