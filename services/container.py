"""Everything long-lived, opened in order and closed in reverse: who owns what is said here."""

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    suppress,
)
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import PIL

from config import (
    MIB,
    Ben2Settings,
    LocalSettings,
    NetworkSettings,
    PrintSettings,
    ProcessSettings,
    RemovebgSettings,
    Settings,
    StorageSettings,
    WebhookSettings,
)
from models.errors import IdempotencyUnavailable
from models.inference import BirefnetSize, RunPlan
from models.print_check import PrintLimits
from models.schemas import (
    DataInfo,
    InferenceInfo,
    MemoryInfo,
    ModelId,
    ModelInfo,
    ModelReadiness,
    ModelStatus,
    ModelTable,
    QueueInfo,
    Readiness,
    RemovalParameters,
)
from services.access import Access, SessionLimits, open_access
from services.admission import Gate
from services.analyst import Analyst
from services.breakers import Breakers
from services.budget import FLOOR_BYTES, Budget, Split, room_for_networks, split
from services.budgets import Budgets
from services.bundle import Bundler
from services.catalogue import CATALOGUE, PAID, CatalogueEntry, default_models
from services.claims import Claims
from services.costs import CostLedger
from services.cuda import Cards, seat
from services.data_folder import DataFolder, open_data_folder
from services.draining import OVERRUN_S, Drain
from services.fetcher import Fetcher
from services.idempotency import Idempotency
from services.inference import resolve
from services.inference_process import InferenceProcess
from services.local_ben2 import Ben2File, LocalBen2, host_bytes
from services.local_knockout import LocalKnockout
from services.local_rembg import BIREFNET_LITE, NETWORKS, LocalRembg, Network
from services.metrics import Metrics
from services.preferences import Preferences, Rules, open_preferences
from services.profiles import Way, way_for
from services.proofs import Proofs
from services.providers import Providers, open_providers, warn_about_keys
from services.rate_limits import RateLimits, Rates, open_storage
from services.readiness import Sight, look, problems
from services.recent_errors import ErrorRing
from services.remover import BackgroundRemover
from services.renderer import Renderer
from services.results import ResultStore
from services.room import Room
from services.scratch import Scratch
from services.shotgun import Shotgun
from services.temp_folder import temp_folder
from services.tracing import Collector, Tracing, open_tracing
from services.upscaler import Upscaler
from services.webhooks import Webhooks
from services.weights import WEIGHT_FILES, WeightFile, WeightsStore
from services.workers import Workers
from utils import heap, memory
from utils.kept_secret import kept_secret
from utils.tracking import Journal
from utils.watchdog import watching

_log = logging.getLogger(__name__)

_SWEEP_EVERY_S = 60
_ARENAS = 2  # more of them keep hundreds of MB after a burst (BENCHMARKS.md, "Under fire")
_RETRY_WEIGHTS_EVERY_S = 300


@dataclass(frozen=True, slots=True)
class Services:
    """What the routes work with."""

    version: str
    shotgun: Shotgun
    analyst: Analyst
    renderer: Renderer
    proofs: Proofs
    bundler: Bundler
    upscaler: Upscaler
    inference: InferenceProcess
    plan: RunPlan
    ben2: LocalBen2 | None
    results: ResultStore
    preferences: Preferences
    workers: Workers
    fetcher: Fetcher
    gate: Gate
    printing_gate: Gate
    proofs_gate: Gate
    removers: Mapping[ModelId, BackgroundRemover]
    default_models: tuple[ModelId, ...]
    ledger: CostLedger
    access: Access
    rate_limits: RateLimits
    budgets: Budgets
    breakers: Breakers
    recent_errors: ErrorRing
    idempotency: Idempotency
    metrics: Metrics
    tracing: Tracing | None
    webhooks: Webhooks
    drain: Drain
    uploads: Path
    scratches: Scratch
    data: DataFolder
    max_upload_bytes: int
    deadline_s: float
    client_stall_s: float
    public_base_url: str
    removebg: RemovalParameters
    max_pixels: int
    min_free_bytes: int
    memory: Split
    started_at: float

    @asynccontextmanager
    async def scratch(self) -> AsyncIterator[Path]:
        """A folder for one request's files, gone when the request is."""
        async with self.scratches.new() as folder:
            yield folder

    def uptime_s(self) -> float:
        return round(time.monotonic() - self.started_at, 3)

    async def readiness(self) -> Readiness:
        states = {model: self._state(model) for model in self.removers}
        found = problems(await self._sight(states))
        return Readiness(
            ready=not any(each.blocks for each in found),
            problems=found,
            draining=self.drain.draining,
            keys_required=self.access.required,
            models=states,
            memory=self._memory(),
            queue=_queue(self.gate),
            printing=_queue(self.printing_gate),
            inference=self._inference(),
            ben2=None if self.ben2 is None else await self.ben2.info(),
            idempotency=self.idempotency.info(),
            data=DataInfo(available=self.data.problem is None, reason=self.data.problem),
            pillow=PIL.__version__,
        )

    async def _sight(self, states: Mapping[ModelId, ModelReadiness]) -> Sight:
        pictures, data, picks = await asyncio.to_thread(
            lambda: [look(each) for each in (self.uploads, self.data.path, self.data.picks)]
        )
        return Sight(
            draining=self.drain.draining,
            models=states,
            default_models=self.default_models,
            prices={model: self.ledger.expected(model) for model in PAID},
            standings=self.budgets.standings(),
            breakers=self.breakers.by_provider,
            failures_in_a_row=self.inference.status().failures_in_a_row,
            queue=_queue(self.gate),
            shots_bytes=self.memory.shots,
            pictures=pictures,
            min_free_bytes=self.min_free_bytes,
            data=data,
            picks=picks,
            data_problem=self.data.problem,
            idempotency=self.idempotency.info(),
        )

    def model_table(self) -> ModelTable:
        present = [entry for entry in CATALOGUE if entry.id in self.removers]
        return ModelTable(models=[self._model_info(entry) for entry in present])

    def _memory(self) -> MemoryInfo:
        return MemoryInfo(
            granted_mb=_mib(self.memory.granted),
            resident_mb=_mib(memory.resident_bytes()),
            floor_mb=FLOOR_BYTES // MIB,
            enlarging_mb=self.memory.enlarging // MIB,
            networks_mb=_mib(self.memory.networks),
            shots_mb=_mib(self.memory.shots),
            ben2_mb=self.memory.set_aside // MIB,
            reserved_mb=-(-self.gate.budget.reserved_bytes // MIB),
        )

    def _state(self, model: ModelId) -> ModelReadiness:
        now = self.removers[model].availability()
        return ModelReadiness(
            status=now.status,
            reason=now.reason,
            sandbox=True if now.sandbox else None,
            first_answer_s=now.first_answer_s,
        )

    def _inference(self) -> InferenceInfo:
        plan, now = resolve(self.plan), self.inference.status()
        return InferenceInfo(
            engine=plan.engine,
            precision=plan.precision,
            threads=plan.threads,
            loaded=[path.stem for path in now.loaded],
            running=now.running,
            waiting=now.waiting,
            load_s=now.load_s,
            failures_in_a_row=now.failures_in_a_row,
        )

    def _model_info(self, entry: CatalogueEntry) -> ModelInfo:
        state = self._state(entry.id)
        return ModelInfo(
            id=entry.id,
            runs_on=entry.runs_on,
            default=entry.id in self.default_models,
            licence=entry.licence,
            price_usd=float(self.ledger.price(entry.id)),
            observed_price_usd=_dollars(self.ledger.observed(entry.id)),
            status=state.status,
            reason=state.reason,
            latency_ms=self.shotgun.latency(entry.id),
        )


@asynccontextmanager
async def open_services(
    settings: Settings, *, version: str, stand_ins: Mapping[ModelId, BackgroundRemover]
) -> AsyncIterator[Services]:
    """Open everything the settings ask for; raises OSError where TEMP_DIR cannot be used.

    `stand_ins` take the place of the removers of the same id.
    """
    heap.share_arenas(_ARENAS)
    async with AsyncExitStack() as stack:
        tracing = await stack.enter_async_context(open_tracing(_collector(settings, version)))
        metrics = Metrics()
        workers = Workers(pixel_threads=settings.work.pixel_threads)
        stack.callback(workers.close)
        granted = settings.local.memory_limit_mb * MIB or memory.granted_bytes()
        uploads = await stack.enter_async_context(
            temp_folder(
                settings.storage.temp_dir, patience_s=settings.process.drain_s + OVERRUN_S + 1
            )
        )
        scratches = Scratch(uploads)
        data = await asyncio.to_thread(
            open_data_folder, settings.storage.data_dir, temp_dir=settings.storage.temp_dir
        )
        providers = await stack.enter_async_context(_providers(settings, workers, scratches, data))
        plan = _run_plan(settings.local)
        ben2, set_aside = await _ben2(settings, workers, granted, stack)
        networks, room = _networks(settings, plan, granted and granted - set_aside)
        shares = _split(settings, networks, room, granted=granted, set_aside=set_aside)
        inference = InferenceProcess(
            idle_ttl_s=settings.local.inference_idle_s, budget_bytes=shares.networks
        )
        stack.push_async_callback(inference.close)
        local = _local(settings.local, workers, inference, networks, room)
        if ben2 is not None:
            local[ModelId.LOCAL_BEN2] = ben2
        removers = _in_order(local, providers.removers, stand_ins)
        results = await asyncio.to_thread(_open_results, settings, data)
        preferences = await stack.enter_async_context(
            _preferences(settings, providers.money.ledger, data)
        )
        idempotency = await stack.enter_async_context(_idempotency(settings.storage, results, data))
        work = settings.work
        # enlargements and proofs share what the upscaler has
        gate, printing_gate, proofs_gate = (
            Gate(
                running_limit=work.max_concurrent_jobs,
                queue_limit=work.queue_limit,
                budget=budget,
            )
            for budget in (Budget(shares.shots), Budget(), Budget())
        )
        webhooks = _webhooks(settings.webhooks)
        stack.push_async_callback(webhooks.close)
        max_pixels = round(settings.inputs.max_megapixels * 1e6)
        limits = _print_limits(settings.prints)
        recent_errors = ErrorRing()
        shotgun = Shotgun(
            removers=removers,
            results=results,
            workers=workers,
            gate=gate,
            max_pixels=max_pixels,
            model_timeout_s=work.model_timeout_s,
            budgets=providers.money.budgets,
            taste=preferences,
            print_limits=limits,
            recent_errors=recent_errors,
            tell=metrics.outcome,
        )
        stack.push_async_callback(shotgun.close)
        upscaler = _upscaler(settings, workers, uploads)
        proofs = Proofs(upscaler, workers)
        await stack.enter_async_context(_housekeeping(results, removers, idempotency, scratches))
        warn_about_keys(settings.providers, guarded=bool(settings.access.api_keys))
        drain = Drain(
            total_s=settings.process.drain_s,
            notice_s=settings.process.drain_notice_s,
            gates=(gate, printing_gate, proofs_gate),
            shotgun=shotgun,
            webhooks=webhooks,
        )
        _attend(stack, drain, settings.process)
        yield Services(
            version=version,
            shotgun=shotgun,
            analyst=Analyst(workers=workers, gate=gate, max_pixels=max_pixels, limits=limits),
            renderer=Renderer(
                results=results, workers=workers, gate=gate, max_pixels=max_pixels, limits=limits
            ),
            proofs=proofs,
            bundler=Bundler(results, upscaler, proofs, version=version),
            upscaler=upscaler,
            inference=inference,
            plan=plan,
            ben2=ben2,
            results=results,
            preferences=preferences,
            workers=workers,
            fetcher=_fetcher(settings),
            gate=gate,
            printing_gate=printing_gate,
            proofs_gate=proofs_gate,
            removers=removers,
            default_models=default_models(
                knockout=settings.local.knockout_enabled, ben2=ben2 is not None
            ),
            access=await asyncio.to_thread(_access, settings, data),
            rate_limits=_rate_limits(settings.network),
            ledger=providers.money.ledger,
            budgets=providers.money.budgets,
            breakers=providers.money.breakers,
            recent_errors=recent_errors,
            idempotency=idempotency,
            metrics=metrics,
            tracing=tracing,
            webhooks=webhooks,
            drain=drain,
            uploads=uploads,
            scratches=scratches,
            data=data,
            max_upload_bytes=settings.inputs.max_upload_mb * MIB,
            deadline_s=settings.work.deadline_s,
            client_stall_s=settings.work.client_stall_s,
            public_base_url=settings.storage.public_base_url,
            removebg=_removebg(settings.removebg),
            max_pixels=max_pixels,
            min_free_bytes=settings.storage.min_free_disk_mb * MIB,
            memory=shares,
            started_at=time.monotonic(),
        )


def _attend(stack: AsyncExitStack, drain: Drain, settings: ProcessSettings) -> None:
    """From here on the loop is watched; when all is closed, what runs may end first."""
    loop = asyncio.get_running_loop()
    stack.enter_context(watching(loop, limit_s=settings.watchdog_s))
    stack.push_async_callback(drain.finish)


def _providers(
    settings: Settings, workers: Workers, scratch: Scratch, data: DataFolder
) -> AbstractAsyncContextManager[Providers]:
    return open_providers(
        settings.providers,
        workers=workers,
        scratch=scratch,
        data_dir=data.path,
    )


def _collector(settings: Settings, version: str) -> Collector | None:
    asked = settings.observability
    if not asked.otel_exporter_otlp_endpoint:
        return None
    headers = asked.otel_exporter_otlp_headers
    return Collector(
        asked.otel_exporter_otlp_endpoint,
        headers=None if headers is None else headers.get_secret_value(),
        service_name=asked.otel_service_name,
        version=version,
        share=asked.otel_traces_sampler_arg,
    )


def _access(settings: Settings, data: DataFolder) -> Access:
    """The door; where keys are wanted, their tokens survive a restart. Blocks."""
    asked = settings.access
    if asked.signing_secret is not None:
        secret = asked.signing_secret.get_secret_value().encode()
    elif asked.api_keys:
        secret = kept_secret(data.signing_key)
    else:
        secret = secrets.token_bytes()
    token = settings.observability.metrics_token
    return open_access(
        asked.api_keys,
        secret=secret,
        metrics_token=None if token is None else token.get_secret_value(),
        link_ttl_s=asked.result_token_ttl_h * 3600,
        limits=SessionLimits(asked.session_ttl_s, asked.session_shots, asked.session_max_cost_usd),
    )


def _rate_limits(network: NetworkSettings) -> RateLimits:
    rates = Rates(
        usual=network.rate_limit_per_minute,
        session=network.session_rate_limit_per_minute,
        refusals=network.refusal_limit_per_minute,
        keys=network.key_rate_limits,
    )
    return RateLimits(rates, open_storage())


@asynccontextmanager
async def _idempotency(
    storage: StorageSettings, results: ResultStore, data: DataFolder
) -> AsyncIterator[Idempotency]:
    """Without its database the service is there for requests that name no key."""
    claims = Claims(data.path)
    with suppress(IdempotencyUnavailable):
        await claims.open()
    ttl = timedelta(hours=storage.result_ttl_h)
    try:
        yield Idempotency(claims, results, dedupe_ttl=ttl if storage.dedupe else None)
    finally:
        await claims.close()


def _upscaler(settings: Settings, workers: Workers, uploads: Path) -> Upscaler:
    return Upscaler(
        workers=workers,
        room=Room(uploads, settings.storage.min_free_disk_mb * MIB),
        memory_bytes=settings.work.upscale_memory_mb * MIB,
        max_file_bytes=settings.storage.result_quota_mb * MIB,
    )


_Networks = dict[ModelId, tuple[Network, Way]]


def networks_of(
    settings: Settings, *, granted: int | None
) -> Mapping[ModelId, tuple[Network, Way]]:
    """The networks that these settings run on a box with so much memory, and how each is run."""
    return _networks(settings, _run_plan(settings.local), granted)[0]


def _networks(
    settings: Settings, plan: RunPlan, granted: int | None
) -> tuple[_Networks, int | None]:
    """The networks with how each is run, and the room that one of them may take."""
    enlarging = settings.work.upscale_memory_mb * MIB
    room = room_for_networks(granted, enlarging_bytes=enlarging)

    def way(network: Network) -> Way:
        profile = settings.local.local_profile
        return way_for(plan, profile, network.architecture, room_bytes=room)

    chosen = dict(NETWORKS)
    full_fits = room is None or way(NETWORKS[ModelId.LOCAL_BIREFNET]).peak_bytes <= room
    size = settings.local.birefnet_size
    if size is BirefnetSize.LITE or (size is BirefnetSize.AUTO and not full_fits):
        chosen[ModelId.LOCAL_BIREFNET] = BIREFNET_LITE
    return {model: (network, way(network)) for model, network in chosen.items()}, room


def _split(
    settings: Settings,
    networks: _Networks,
    room: int | None,
    *,
    granted: int | None,
    set_aside: int,
) -> Split:
    peaks = [way.peak_bytes for _, way in networks.values()]
    return split(
        granted,
        enlarging_bytes=settings.work.upscale_memory_mb * MIB,
        network_peaks=[each for each in peaks if room is None or each <= room],
        set_aside_bytes=set_aside,
    )


def _run_plan(settings: LocalSettings) -> RunPlan:
    """How every network is run; which one is the remover's to fill in."""
    return RunPlan(
        Path(),
        engine=settings.inference_engine,
        precision=settings.inference_precision,
        threads=settings.inference_threads,
    )


def _local(
    settings: LocalSettings,
    workers: Workers,
    inference: InferenceProcess,
    networks: _Networks,
    room: int | None,
) -> dict[ModelId, BackgroundRemover]:
    """The models on this machine."""
    weights = WeightsStore(settings.weights_dir, files=_weight_files(settings))
    removers = {
        model: LocalRembg(
            network,
            weights=weights,
            workers=workers,
            inference=inference,
            way=way,
            download=settings.weights_download,
            room_bytes=room,
        )
        for model, (network, way) in networks.items()
    }
    return {**removers, ModelId.LOCAL_KNOCKOUT: LocalKnockout(workers)}


async def _ben2(
    settings: Settings, workers: Workers, granted: int | None, stack: AsyncExitStack
) -> tuple[LocalBen2 | None, int]:
    """BEN2 where it is set up, in a process of its own; and the memory to be kept for that."""
    asked: Ben2Settings = settings.ben2
    if asked.ben2_weights is None:
        return None, 0
    cards = Cards()
    place = await seat(asked.ben2_device, cards)
    room = room_for_networks(granted, enlarging_bytes=settings.work.upscale_memory_mb * MIB)
    inference = InferenceProcess(idle_ttl_s=settings.local.inference_idle_s, budget_bytes=None)
    stack.push_async_callback(inference.close)
    ben2 = LocalBen2(
        Ben2File(asked.ben2_weights, asked.ben2_sha256),
        asked=asked.ben2_device,
        seat=place,
        cards=cards,
        workers=workers,
        inference=inference,
        threads=settings.local.inference_threads,
        room_bytes=room,
    )
    may_run = ben2.availability().status is not ModelStatus.UNAVAILABLE
    if place.device is None or not may_run:
        return ben2, 0
    return ben2, host_bytes(asked.ben2_weights, place.device)


def _weight_files(settings: LocalSettings) -> list[WeightFile]:
    named = settings.unverified_weights
    return [
        file.accepting(named[file.name]) if file.name in named else file for file in WEIGHT_FILES
    ]


def _in_order(
    *tables: Mapping[ModelId, BackgroundRemover],
) -> dict[ModelId, BackgroundRemover]:
    """One table in the catalogue's order; the later of two removers for one model wins."""
    present = {model: remover for table in tables for model, remover in table.items()}
    return {entry.id: present[entry.id] for entry in CATALOGUE if entry.id in present}


def _open_results(settings: Settings, data: DataFolder) -> ResultStore:
    storage = settings.storage
    store = ResultStore(
        storage.temp_dir / "results",
        records=data.records,
        record_ttl=timedelta(days=storage.record_ttl_days),
        ttl=timedelta(hours=storage.result_ttl_h),
        quota_bytes=storage.result_quota_mb * MIB,
        min_free_bytes=storage.min_free_disk_mb * MIB,
    )
    store.open()
    return store


def _preferences(
    settings: Settings, ledger: CostLedger, data: DataFolder
) -> AbstractAsyncContextManager[Preferences]:
    picks, storage = settings.picks, settings.storage
    journal = Journal(
        data.picks,
        fsync=picks.picks_fsync,
        rotate_bytes=picks.picks_rotate_mb * MIB,
    )
    rules = Rules(
        on_failure=picks.picks_on_failure,
        retention=timedelta(days=picks.picks_retention_days),
        notes_ttl=timedelta(hours=storage.result_ttl_h, days=storage.record_ttl_days + 1),
        half_life_days=picks.picks_half_life_days,
        worth_usd=picks.picks_worth_usd,
    )
    prices = {model: float(ledger.price(model)) for model in PAID}
    return open_preferences(journal, rules=rules, prices=prices)


def _removebg(settings: RemovebgSettings) -> RemovalParameters:
    """What a call of remove.bg's route asks of a shot."""
    models = sorted(settings.removebg_models) or None
    return RemovalParameters(mode=settings.removebg_mode, models=models)


def _fetcher(settings: Settings) -> Fetcher:
    return Fetcher(
        max_bytes=settings.inputs.max_upload_mb * MIB,
        timeout_s=settings.inputs.image_url_timeout_s,
        allowed_hosts=settings.inputs.image_url_allowed_hosts,
    )


def _print_limits(settings: PrintSettings) -> PrintLimits:
    said = settings.model_dump()
    return PrintLimits(**{name.removeprefix("print_"): value for name, value in said.items()})


def _webhooks(settings: WebhookSettings) -> Webhooks:
    secret = settings.webhook_secret
    return Webhooks(
        secret=None if secret is None else secret.get_secret_value(),
        allowed_hosts=settings.webhook_allowed_hosts,
        pace=settings.webhook_pace,
    )


@asynccontextmanager
async def _housekeeping(
    results: ResultStore,
    removers: Mapping[ModelId, BackgroundRemover],
    idempotency: Idempotency,
    scratches: Scratch,
) -> AsyncIterator[None]:
    """Expiry and weights, looked after in the background for as long as the service is open."""
    networks = [each for each in removers.values() if isinstance(each, LocalRembg | LocalBen2)]
    tasks = [
        asyncio.create_task(_sweep_for_ever(results, idempotency, scratches)),
        *(asyncio.create_task(_prepare(each)) for each in networks),
    ]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _sweep_for_ever(
    results: ResultStore, idempotency: Idempotency, scratches: Scratch
) -> None:
    """Forget what has expired, and give the system the memory that enlargements no longer use."""
    while True:
        await asyncio.sleep(_SWEEP_EVERY_S)
        for sweep in (results.sweep, scratches.sweep):
            try:
                await asyncio.to_thread(sweep)
            except OSError as error:  # a disk that refuses is asked again a minute later
                _log.warning("not_swept", extra={"reason": error.strerror})
        await idempotency.sweep()
        await asyncio.to_thread(heap.trim)


async def _prepare(remover: LocalRembg | LocalBen2) -> None:
    """Look for the weights until they are there."""
    while True:
        await remover.prepare()
        if remover.availability().status is ModelStatus.READY:
            return
        await asyncio.sleep(_RETRY_WEIGHTS_EVERY_S)


def _queue(gate: Gate) -> QueueInfo:
    return QueueInfo(
        running=gate.running,
        running_limit=gate.running_limit,
        waiting=gate.waiting,
        waiting_limit=gate.queue_limit,
    )


def _dollars(amount: Decimal | None) -> float | None:
    return None if amount is None else float(amount)


def _mib(size: int | None) -> int | None:
    return None if size is None else size // MIB
