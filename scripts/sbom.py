"""The image's bill of materials in CycloneDX's JSON: `python -m scripts.sbom` within the build.

cyclonedx-py describes the Python environment; the Debian packages and the networks are added here.
It runs by the tool's own interpreter, so it needs nothing of the project's requirements.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

Component = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0 and the file written; raises where the tool or the result is not valid."""
    asked = _parser().parse_args(arguments)
    bom = python_bom(asked.environment)
    bom["metadata"]["component"] = {
        "type": "application",
        "bom-ref": "img-proc-service",
        "name": "img-proc-service",
        "version": asked.version,
        "licenses": [{"license": {"id": "MIT"}}],
    }
    added = [*debian_components(asked.dpkg_status), *network_components(asked.weights)]
    bom["components"].extend(added)
    text = json.dumps(bom, indent=1, ensure_ascii=False) + "\n"
    require_valid(text)
    asked.output.write_text(text, encoding="utf-8")
    print(f"{asked.output}: {len(bom['components'])} components")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m scripts.sbom", description=__doc__)
    parser.add_argument("--version", default="0", help="the image's")
    parser.add_argument("--environment", type=Path, default=Path(sys.prefix), help="a venv")
    parser.add_argument("--dpkg-status", type=Path, help="the image's /var/lib/dpkg/status")
    parser.add_argument("--weights", type=Path, help="the folder of the networks")
    parser.add_argument("--output", type=Path, default=Path("sbom.json"))
    return parser


def python_bom(environment: Path) -> dict[str, Any]:
    """What cyclonedx-py says of a venv's distributions."""
    command = [sys.executable, "-m", "cyclonedx_py", "environment", "--no-validate"]
    done = subprocess.run(
        [*command, "--output-reproducible", "--output-format", "JSON", str(environment)],
        check=True,
        capture_output=True,
    )
    bom: dict[str, Any] = json.loads(done.stdout)
    bom.setdefault("metadata", {})
    _set_pillow_right(bom.setdefault("components", []))
    return bom


def _set_pillow_right(components: list[Component]) -> None:
    """Of Pillow only the name is installed where Pillow-SIMD's code was laid over it."""
    by_name = {each["name"].casefold(): each for each in components}
    if "pillow-simd" in by_name and "pillow" in by_name:
        by_name["pillow"]["scope"] = "excluded"
        by_name["pillow"]["description"] = "The name alone: its code is that of pillow-simd."


def debian_components(status: Path | None) -> Iterator[Component]:
    """The installed packages of dpkg's status file; none where there is no file."""
    if status is None:
        return
    for paragraph in status.read_text(encoding="utf-8").split("\n\n"):
        fields = dict(
            line.split(": ", 1)
            for line in paragraph.splitlines()
            if ": " in line and not line.startswith(" ")
        )
        if fields.get("Status") != "install ok installed":
            continue
        name, version = fields["Package"], fields["Version"]
        purl = f"pkg:deb/debian/{name}@{quote(version, safe='')}?arch={fields['Architecture']}"
        yield {
            "type": "library",
            "bom-ref": purl,
            "name": name,
            "version": version,
            "purl": purl,
            "description": f"Licence: /usr/share/doc/{name}/copyright",
        }


def network_components(weights: Path | None) -> Iterator[Component]:
    """The networks, from the manifests that services/weights.py keeps beside them."""
    if weights is None:
        return
    for path in sorted(weights.glob("models/*/*.source.json")):
        manifest = json.loads(path.read_text(encoding="utf-8"))
        name = path.parent.name
        yield {
            "type": "machine-learning-model",
            "bom-ref": f"network:{name}",
            "name": name,
            "version": manifest["sha256"][:12],
            "description": f"Source: {manifest['source']}",
            "hashes": [{"alg": "SHA-256", "content": manifest["sha256"]}],
            "licenses": [{"license": {"name": manifest["licence"]}}],
        }


def require_valid(text: str) -> None:
    """Raises ValueError where `text` breaks CycloneDX 1.6's schema."""
    from cyclonedx.schema import SchemaVersion  # noqa: PLC0415  # only where it is written
    from cyclonedx.validation.json import JsonStrictValidator  # noqa: PLC0415

    wrong = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if wrong is not None:
        raise ValueError(f"the bill of materials is not valid: {wrong}")


if __name__ == "__main__":
    sys.exit(main())
