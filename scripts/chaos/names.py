"""Names that stop to resolve: a hosts file and a resolver of our own, in a mount namespace."""

import socket
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx

from scripts.chaos.stage import Stage
from scripts.chaos.traffic import Seen, picture

_NAMES = "127.0.0.1 localhost runware.test kie.test shop.test\n"
_PICTURES_PORT = 8099  # the network is our own


class _Pictures(BaseHTTPRequestHandler):
    """A shop's own storage."""

    def do_GET(self) -> None:
        content = picture()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None: ...


def names_by_hand(stage: Stage) -> None:
    """The providers and the shop by names that only our hosts file knows; the resolver is deaf."""
    (stage.folder / "hosts").write_text(_NAMES)
    (stage.folder / "resolv.conf").write_text("nameserver 127.0.0.1\n")
    for name in ("hosts", "resolv.conf"):
        subprocess.run(["mount", "--bind", str(stage.folder / name), f"/etc/{name}"], check=True)
        stage.closing.callback(subprocess.run, ["umount", f"/etc/{name}"], check=False)
    deaf = stage.closing.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    deaf.bind(("127.0.0.1", 53))
    server = ThreadingHTTPServer(("127.0.0.1", _PICTURES_PORT), _Pictures)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    stage.closing.callback(server.shutdown)
    stage.env = {
        "RUNWARE_URL": f"ws://runware.test:{stage.doors['runware_ws'].port}/v1",
        "KIE_API_URL": f"http://kie.test:{stage.doors['kie_api'].port}",
        "KIE_UPLOAD_URL": f"http://kie.test:{stage.doors['kie_upload'].port}",
        "IMAGE_URL_ALLOWED_HOSTS": f"shop.test:{_PICTURES_PORT}",
        "IMAGE_URL_TIMEOUT_S": "10",
    }


def names_away(stage: Stage, _: Seen) -> None:
    (stage.folder / "hosts").write_text("127.0.0.1 localhost\n")
    for door in stage.doors.values():
        door.drop()
    time.sleep(25)
    (stage.folder / "hosts").write_text(_NAMES)


def shoot_by_url(client: httpx.Client, seen: Seen) -> None:
    address = f"http://shop.test:{_PICTURES_PORT}/order.png"
    asked = {"image_url": address, "models": seen.models, "deadline_s": "20"}
    answer = client.post("/remove-background", json=asked)
    seen.note("shot by image_url", answer)
    if answer.status_code == 200:
        seen.take(answer.json())
