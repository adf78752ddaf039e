"""Fetches BEN2's network to where the settings look for it, and proves it by their checksum.

`python -m scripts.ben2` goes by BEN2_WEIGHTS and BEN2_SHA256. A part that broke off is continued by
the next call; bytes that the checksum does not prove never reach their place.
"""

import argparse
import asyncio
import sys
from collections.abc import Sequence

from config import Ben2Settings, load_settings
from services.weight_sources import ReleaseFile, SourceFailed, bring, sha256_of

PUBLISHED = "https://huggingface.co/PramaLLC/BEN2/resolve/main/BEN2_Base.onnx"
LICENCE = "MIT (PramaLLC/BEN2)"


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0 when the proven file is in place."""
    parser = argparse.ArgumentParser(prog="python -m scripts.ben2", description=__doc__)
    parser.add_argument("--url", default=PUBLISHED, help="where it is fetched (%(default)s)")
    asked = parser.parse_args(arguments)
    settings = load_settings().ben2
    if settings.ben2_weights is None or settings.ben2_sha256 is None:
        print("Set BEN2_WEIGHTS and BEN2_SHA256 first; see docs/GPU.md.", file=sys.stderr)
        return 2
    try:
        said = _fetch(settings, asked.url)
    except (SourceFailed, OSError) as failure:
        print(f"{settings.ben2_weights} is not there: {failure}", file=sys.stderr)
        return 1
    print(said)
    return 0


def _fetch(settings: Ben2Settings, url: str) -> str:
    path, sha256 = settings.ben2_weights, settings.ben2_sha256
    assert path is not None  # noqa: S101  # main has looked
    assert sha256 is not None  # noqa: S101
    if path.exists():
        found = sha256_of(path)
        if found != sha256:
            raise SourceFailed(f"another file is in its place (sha256 {found}); move it away")
        return f"{path} is in place and proven."
    path.parent.mkdir(parents=True, exist_ok=True)
    source = ReleaseFile(url, sha256, LICENCE)
    asyncio.run(bring(source, path=path, report=lambda *_: None))
    return f"{path} was fetched and proven ({LICENCE})."


if __name__ == "__main__":
    sys.exit(main())
