"""docs/SECURITY.md points at code, tests, settings and files that are there."""

import io
import re
from pathlib import Path

import pytest
from PIL import Image
from PIL.ExifTags import GPS, IFD

from config import GROUPS
from tests.conftest import ROOT, artwork, serving

WHISPER = "taken in front of the customer's house"
PAGE = (ROOT / "docs" / "SECURITY.md").read_text(encoding="utf-8")
PATHS = sorted(set(re.findall(r"`((?:[a-z]+/)+[\w.]+\.(?:py|sh))`", PAGE)))
CODE = "\n".join(
    path.read_text(encoding="utf-8") for path in sorted((ROOT / "services").glob("*.py"))
)


@pytest.mark.parametrize("path", PATHS)
def test_what_it_points_at_is_there(path: str) -> None:
    assert (ROOT / path).is_file()


def test_every_defence_names_its_module_and_its_test() -> None:
    rows = [line.strip("|").split("|") for line in PAGE.splitlines() if line.startswith("| ")]
    defences = [row for row in rows if len(row) == 4 and "module" not in row[2] and "`" in row[2]]
    attacks = [row for row in defences if "shown by" not in row[3] and ".py`" in row[2]]
    assert len(attacks) >= 20
    for row in attacks:
        assert "`tests/" in row[3], row[0]


def test_every_setting_it_names_exists() -> None:
    settings = {name.upper() for group in GROUPS.values() for name in group.model_fields}
    named = set(re.findall(r"`([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)(?:=[^`]*|/[^`]*)?`", PAGE))
    assert named <= settings


def test_every_file_it_says_is_kept_is_written_under_that_name() -> None:
    for folder, name in re.findall(r"`(TEMP_DIR|DATA_DIR)/([\w.]+)`", PAGE):
        assert f'"{name}"' in CODE, f"{folder}/{name}"


def test_the_times_it_tells_are_the_settings_own() -> None:
    defaults = {
        name.upper(): field.default
        for group in GROUPS.values()
        for name, field in group.model_fields.items()
    }
    told = re.findall(r"`([A-Z_]+)` \((\d+)(?: h)?\)", PAGE)
    assert {name for name, _ in told} == {
        "RESULT_TTL_H",
        "RECORD_TTL_DAYS",
        "PICKS_RETENTION_DAYS",
    }
    for name, value in told:
        assert defaults[name] == int(value)


def test_nothing_of_a_pictures_metadata_travels_on(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010E] = WHISPER
    exif.get_ifd(IFD.GPSInfo)[GPS.GPSAreaInformation] = WHISPER
    content = io.BytesIO()
    Image.open(io.BytesIO(artwork(width=200, height=200))).convert("RGB").save(
        content, "JPEG", exif=exif, comment=WHISPER
    )
    assert content.getvalue().count(WHISPER.encode()) >= 2
    with serving(tmp_path) as server:
        shot = server.shoot(content.getvalue(), models="local-knockout").json()
        (entry,) = shot["results"]
        pictures = [
            server.client.get(address).raise_for_status()
            for address in (
                entry["url"],
                entry["preview_url"],
                f"{entry['url']}?scale=2",
                f"/results/{shot['request_id']}/original.webp",
            )
        ]
        enlarged = server.client.post(
            "/upscale", files={"image": ("a.jpg", content.getvalue())}, data={"format": "tiff"}
        )
    for answer in [*pictures, enlarged.raise_for_status()]:
        assert WHISPER.encode() not in answer.content, answer.request.url
        assert not Image.open(io.BytesIO(answer.content)).getexif().get(0x010E)
