"""How this machine reaches the registries, for programs in a root; nothing of it stays in the root.

An engine has settings of its own for this (its DNS, proxies, CA certificates); a RUN of ours gets
those of the machine: names of the environment that tools look at, its resolver, its CA bundle and
apt's proxy lines.
"""

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from scripts.scratch_root import Mount

_PASSED_ON = (
    "http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY",
    "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_TRUSTED_HOST", "PIP_DEFAULT_TIMEOUT",
    "UV_INDEX_URL", "UV_DEFAULT_INDEX", "npm_config_registry",
)  # fmt: skip
_CERTIFICATE_NAMES = (
    "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT", "NODE_EXTRA_CA_CERTS",
)  # fmt: skip
_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
_BUNDLE_INSIDE = "/run/machine-network/ca-certificates.crt"
_APT_INSIDE = "/run/machine-network/apt.conf"
_APT_SETTINGS = ("Acquire::http", "Acquire::https", "Acquire::Check-")


@dataclass(frozen=True, slots=True)
class MachineNetwork:
    """What a RUN gets beside the image's own environment."""

    env: Mapping[str, str]
    mounts: tuple[Mount, ...]

    def told(self) -> str:
        names = ", ".join(sorted(self.env)) or "no names of the environment"
        return f"a RUN also gets this machine's network settings: its resolver, {names}"


def machine_network(work: Path, environment: Mapping[str, str] = os.environ) -> MachineNetwork:
    """This machine's settings; apt's lines are written to a file in `work`."""
    env = {name: environment[name] for name in _PASSED_ON if environment.get(name)}
    mounts = [
        Mount(str(file), file, read_only=True)
        for file in (Path("/etc/resolv.conf"), Path("/etc/hosts"))
        if file.exists()
    ]
    if _has_own_certificates(environment):
        mounts.append(Mount(_BUNDLE_INSIDE, _BUNDLE, read_only=True))
        env |= dict.fromkeys(_CERTIFICATE_NAMES, _BUNDLE_INSIDE)
    if lines := _apt_lines():
        file = work / "apt.conf"
        file.write_text("\n".join(lines) + "\n", "utf-8")
        mounts.append(Mount(_APT_INSIDE, file, read_only=True))
        env["APT_CONFIG"] = _APT_INSIDE
    return MachineNetwork(env, tuple(mounts))


def _has_own_certificates(environment: Mapping[str, str]) -> bool:
    """Somebody pointed tools at the machine's bundle: it has what a fresh root's has not."""
    return _BUNDLE.exists() and any(environment.get(name) for name in _CERTIFICATE_NAMES)


def _apt_lines() -> list[str]:
    try:
        told = subprocess.run(
            ["apt-config", "dump"], capture_output=True, check=True, encoding="utf-8"
        )
    except (OSError, subprocess.CalledProcessError):
        return []
    return [
        line
        for line in told.stdout.splitlines()
        if line.startswith(_APT_SETTINGS) and not line.endswith('"";')
    ]
