"""The paid models as the settings name them: clients, breakers and ledger, opened and closed.

With the key `sandbox` a provider's look-alike is started in this process on loopback. This is the
container's wing for what costs money, and like the container it reads the settings.
"""

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from pathlib import Path

from pydantic import SecretStr

from config import MIB, ProviderSettings
from models.schemas import ModelId, ModelStatus
from services.breakers import Breakers
from services.budgets import Budgets
from services.costs import CostLedger
from services.data_folder import LEDGER
from services.fetcher import Fetcher
from services.fitting import Limits
from services.kie_client import Account, KieClient
from services.kie_client import Pace as KiePace
from services.remote import KieModel, Provider, RemoteRemover, RunwareModel
from services.remover import AbsentRemover, BackgroundRemover
from services.runware_client import Pace as RunwarePace
from services.runware_client import RunwareClient
from services.scratch import Scratch
from services.workers import Workers

_log = logging.getLogger(__name__)

_SANDBOX = "sandbox"
_RESULT_BYTES = 128 * MIB
_DOWNLOAD_S = 60
# Runware keeps inline pictures at 2048 pixels a side and its models see 1024; frames stay small.
_RUNWARE_LIMITS = Limits(max_side=2048, max_pixels=2048 * 2048, max_bytes=4 * MIB)
# as Kie.ai documents them for recraft/remove-background, with a little room
_KIE_LIMITS = Limits(max_side=4096, max_pixels=16_000_000, max_bytes=5_000_000, min_side=256)


@dataclass(frozen=True, slots=True)
class Places:
    """Where the providers are, and from where results may be fetched."""

    runware: str
    kie_api: str
    kie_upload: str
    result_hosts: frozenset[str]


@dataclass(frozen=True, slots=True)
class Money:
    """What was spent, what may be, and which provider is left alone."""

    ledger: CostLedger
    budgets: Budgets
    breakers: Breakers


@dataclass(frozen=True, slots=True)
class Providers:
    """The paid removers by id, and their money."""

    removers: dict[ModelId, BackgroundRemover]
    money: Money


@asynccontextmanager
async def open_providers(
    settings: ProviderSettings, *, workers: Workers, scratch: Scratch, data_dir: Path
) -> AsyncIterator[Providers]:
    """Every paid model: connected where its key is set, else saying which key is missing."""
    async with AsyncExitStack() as stack:
        money = _money(settings, data_dir)
        stack.callback(money.ledger.close)
        places = await find_places(settings, stack)
        remote = partial(
            RemoteRemover,
            ledger=money.ledger,
            fetcher=_fetcher(settings, places),
            workers=workers,
            scratch=scratch,
        )
        yield Providers(
            {
                **_runware(settings, places, remote, money, stack),
                **_kie(settings, places, remote, money, stack),
            },
            money,
        )


def warn_about_keys(settings: ProviderSettings, *, guarded: bool) -> None:
    """A missing key costs a model; one that is set is spent by anybody, unless `guarded`."""
    for name in ("runware_api_key", "kie_api_key"):
        key = getattr(settings, name)
        if key is None:
            _log.warning("provider_unconfigured", extra={"setting": name.upper()})
        elif not guarded and not _is_sandbox(key):
            _log.warning("paid_provider_open_to_anybody", extra={"setting": name.upper()})


def _money(settings: ProviderSettings, data_dir: Path) -> Money:
    """The ledger as it was left, and what is decided by it."""
    ledger = CostLedger(data_dir / LEDGER, prices=_prices(settings))
    ledger.open()
    breakers = Breakers(
        data_dir / "breakers.json",
        probe_after_s=settings.provider_probe_s,
        failures_to_open=settings.provider_failures,
    )
    breakers.open()
    budgets = Budgets(
        ledger, daily_usd=settings.daily_budget_usd, by_key=settings.key_daily_budgets
    )
    return Money(ledger, budgets, breakers)


def _runware(
    settings: ProviderSettings,
    places: Places,
    remote: "partial[RemoteRemover]",
    money: Money,
    stack: AsyncExitStack,
) -> dict[ModelId, BackgroundRemover]:
    """Both models of a shot share one socket and one breaker."""
    airs = {
        ModelId.RUNWARE_RMBG: settings.runware_rmbg_model,
        ModelId.RUNWARE_BIREFNET: settings.runware_portrait_model,
    }
    if (key := settings.runware_api_key) is None:
        return {model: _unconfigured(model, "RUNWARE_API_KEY") for model in airs}
    client = RunwareClient(
        places.runware,
        api_key=key.get_secret_value(),
        settle=money.ledger.settled,
        pace=RunwarePace().scaled(settings.provider_pace),
    )
    stack.push_async_callback(client.close)
    breaker = money.breakers.breaker("runware", api_key=key.get_secret_value())
    return {
        model: remote(
            name=model,
            provider=RunwareModel(client, air, _RUNWARE_LIMITS),
            breaker=breaker,
            timeout_s=settings.runware_timeout_s,
            sandbox=_is_sandbox(key),
        )
        for model, air in airs.items()
    }


def _kie(
    settings: ProviderSettings,
    places: Places,
    remote: "partial[RemoteRemover]",
    money: Money,
    stack: AsyncExitStack,
) -> dict[ModelId, BackgroundRemover]:
    model = ModelId.KIE_RECRAFT
    if (key := settings.kie_api_key) is None:
        return {model: _unconfigured(model, "KIE_API_KEY")}
    price = settings.provider_prices.get(settings.kie_model, Decimal(0))

    def settle(task_id: str, used: Decimal | None) -> None:
        money.ledger.settled(task_id, None if used is None else used * price)

    account = Account(
        api_url=places.kie_api.rstrip("/"),
        upload_url=places.kie_upload.rstrip("/"),
        api_key=key.get_secret_value(),
        user_agent=settings.provider_user_agent,
        model=settings.kie_model,
    )
    client = KieClient(account, settle=settle, pace=KiePace().scaled(settings.provider_pace))
    stack.push_async_callback(client.close)
    provider: Provider = KieModel(client, settings.kie_model, _KIE_LIMITS)
    return {
        model: remote(
            name=model,
            provider=provider,
            breaker=money.breakers.breaker("kie", api_key=key.get_secret_value()),
            timeout_s=settings.kie_timeout_s,
            sandbox=_is_sandbox(key),
        )
    }


def _unconfigured(model: ModelId, setting: str) -> AbsentRemover:
    return AbsentRemover(model, f"{setting} is not set.", ModelStatus.UNCONFIGURED)


def _prices(settings: ProviderSettings) -> dict[ModelId, Decimal]:
    """Dollars a picture; a model the price list does not name counts as free until told."""
    names = {
        ModelId.RUNWARE_RMBG: settings.runware_rmbg_model,
        ModelId.RUNWARE_BIREFNET: settings.runware_portrait_model,
        ModelId.KIE_RECRAFT: settings.kie_model,
    }
    return {model: settings.provider_prices.get(name, Decimal(0)) for model, name in names.items()}


async def find_places(settings: ProviderSettings, stack: AsyncExitStack) -> Places:
    """The settings' addresses, or those of a look-alike started for the key `sandbox`."""
    places = Places(
        settings.runware_url,
        settings.kie_api_url,
        settings.kie_upload_url,
        settings.provider_result_domains,
    )
    keys = {"runware": settings.runware_api_key, "kie": settings.kie_api_key}
    wanted = {name for name, key in keys.items() if key is not None and _starts_sandbox(key)}
    if not wanted:
        return places
    from sandbox.opening import open_sandbox  # noqa: PLC0415  # not part of a service that pays

    sandbox = await stack.enter_async_context(open_sandbox())
    files = (sandbox.runware_files, sandbox.kie_files)
    return Places(
        sandbox.runware_ws if "runware" in wanted else places.runware,
        sandbox.kie_api if "kie" in wanted else places.kie_api,
        sandbox.kie_upload if "kie" in wanted else places.kie_upload,
        places.result_hosts | {address.partition("://")[2] for address in files},
    )


def _is_sandbox(key: SecretStr) -> bool:
    """Every key of the look-alikes begins so, whoever started them."""
    return key.get_secret_value().startswith(_SANDBOX)


def _starts_sandbox(key: SecretStr) -> bool:
    """`sandbox`, or with faults to show: `sandbox:fault=...`."""
    return key.get_secret_value().partition(":")[0] == _SANDBOX


def _fetcher(settings: ProviderSettings, places: Places) -> Fetcher:
    """Results come from the providers' domains; an entry with a port is taken as it stands."""
    with_port = frozenset(host for host in places.result_hosts if ":" in host)
    return Fetcher(
        max_bytes=_RESULT_BYTES,
        timeout_s=_DOWNLOAD_S,
        allowed_hosts=with_port,
        only_domains=places.result_hosts - with_port,
        user_agent=settings.provider_user_agent,
    )
