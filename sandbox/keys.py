"""Which keys the look-alikes take, whose account they are, and the faults they ask for.

`sandbox` and `sandbox-<name>` are keys of an account each. Behind `:fault=` a key carries switches
for everything that is sent under it: `sandbox:fault=runware.slow=2,kie.stuck`.
"""

from dataclasses import dataclass

from sandbox.faults import Switch, parse_switches

_MARK = ":fault="


@dataclass(frozen=True, slots=True)
class Account:
    name: str
    marks: tuple[Switch, ...] = ()


def open_account(key: object) -> Account | None:
    """The account behind a key; None for a key that is not one of ours."""
    if not isinstance(key, str):
        return None
    name, _, faults = key.partition(_MARK)
    if name != "sandbox" and not name.startswith("sandbox-"):
        return None
    try:
        return Account(name, parse_switches(faults))
    except ValueError:
        return None


def bearer(header: str | None) -> str | None:
    """The key inside an Authorization header."""
    scheme, _, key = (header or "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else None
