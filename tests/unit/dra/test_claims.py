"""Claims: what a container gets, and what is left when something fails."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from tests.support.factories import device, unchanged
from xilinx_fpga_dp.dra import claims as claims_module
from xilinx_fpga_dp.dra.allocation import ClaimRefused
from xilinx_fpga_dp.dra.checkpoint import Checkpoint
from xilinx_fpga_dp.dra.claims import ClaimReference, Claims, Fetch, Node
from xilinx_fpga_dp.dra.devices import PoolDevice
from xilinx_fpga_dp.dra.documents import Layout, PreparedClaim, PreparedResult
from xilinx_fpga_dp.model import Device, Held, Holder, Reason

DRIVER = "fpga.xilinx.com"
ADDRESS = "0000:65:00.1"
NAME = "pci-0000-65-00-1"
CLAIM = PreparedClaim("1-2", "ns", "mine", None, (PreparedResult("fpga", "n1", NAME, ADDRESS, "x.com/a"),))
SECOND_RESULT = PreparedResult("fpga", "n1", "pci-0000-66-00-1", "0000:66:00.1", "x.com/a")
REFERENCE = ClaimReference("ns", "mine", "1-2")
OF_A_POD = (Holder("ns", "pod", "main", DRIVER, NAME, "mine"),)


def _layout(folder: Path) -> Layout:
    return Layout(DRIVER, str(folder / "cdi"), str(folder), expose_mgmt=False, metadata=True)


def _node(*devices: PoolDevice, **other: Any) -> Node:
    """Return a node with these devices, unchanged, of which podresources knows no holder."""
    pool = {each.name: each for each in devices}

    async def held() -> Held:
        return {}

    async def mounts(_limit: float, _paths: object) -> tuple[str, ...]:
        return ()

    node = Node(
        name="n1",
        pool=lambda: pool,
        device=pool.get,
        versions=dict,
        refresh=unchanged,
        refresh_limit=60,
        held=held,
        mounts=mounts,
        extra_mounts=(),
        effect=lambda _device, _reason: "NoSchedule",
        refreshed=lambda _devices: None,
        standby=lambda: False,
        shared=False,
        running=lambda _pods: (),
    )
    return dataclasses.replace(node, **other)


def _u200(address: str = ADDRESS, name: str = NAME) -> PoolDevice:
    return PoolDevice(name, "x.com/a", (device(address),))


def _allocated(uid: str, *names: str, name: str = "mine", **more: object) -> Mapping[str, Any]:
    """Return a ResourceClaim that has these devices."""
    results = [
        {"request": "fpga", "driver": DRIVER, "pool": "n1", "device": each, **more}
        for each in names or (NAME,)
    ]
    return {
        "metadata": {"namespace": "ns", "name": name, "uid": uid},
        "status": {"allocation": {"devices": {"results": results}}},
    }


def _reserved(uid: str, *pods: str) -> Mapping[str, Any]:
    """Return a ResourceClaim that pods with these uids have."""
    claim = _allocated(uid)
    consumers = [{"resource": "pods", "name": each, "uid": each} for each in pods]
    return {**claim, "status": {**claim["status"], "reservedFor": consumers}}


def _server(*found: Mapping[str, Any]) -> Fetch:
    by_name = {each["metadata"]["name"]: each for each in found}

    async def fetch(_namespace: str, name: str) -> Mapping[str, Any] | None:
        return by_name.get(name)

    return fetch


def _write(folder: Path, *claims: PreparedClaim) -> None:
    checkpoint = Checkpoint(str(folder), dict)
    with checkpoint.locked():
        checkpoint.write(checkpoint.read(), {each.uid: each for each in claims})


def _spec(folder: Path, uid: str) -> str:
    return Path(_layout(folder).spec_path(uid)).read_text()


async def _never(*_: object) -> Any:
    await asyncio.Event().wait()


def _prepare(claims: Claims) -> Awaitable[object]:
    return claims.prepare(REFERENCE)


def _unprepare(claims: Claims) -> Awaitable[object]:
    return claims.unprepare(REFERENCE)


@pytest.mark.parametrize("call", [_prepare, _unprepare])
async def test_step_that_is_not_answered_in_time_is_refused_with_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Callable[[Claims], Awaitable[object]]
) -> None:
    """Kubelet takes an empty error for success, and starts the pod without its card."""
    claims = Claims(_layout(tmp_path), _node(_u200()), _server(_allocated("1-2")))
    monkeypatch.setattr(claims, "_step", _never)
    monkeypatch.setattr(claims_module, "_LIMIT", 0.01)
    with pytest.raises(ClaimRefused, match=r"^no answer for 0\.01 s$"):
        await call(claims)


async def test_claim_of_a_pod_that_still_runs_is_not_unprepared(tmp_path: Path) -> None:
    """Kubelet forgets a pod that is deleted by force before its containers have ended."""
    running = {"pod-1"}
    node = _node(_u200(), running=running.intersection)
    claims = Claims(
        _layout(tmp_path), node, _server(_reserved("1-2", "pod-1"), _allocated("3-4", name="next"))
    )
    await claims.prepare(REFERENCE)
    with pytest.raises(ClaimRefused, match=r"^a pod that has the ResourceClaim ns/mine still runs$"):
        await claims.unprepare(REFERENCE)
    with pytest.raises(ClaimRefused, match="still prepared for the ResourceClaim ns/mine"):
        await claims.prepare(ClaimReference("ns", "next", "3-4"))
    assert "1-2" in _spec(tmp_path, "1-2"), "its container may start again"
    running.clear()
    await claims.unprepare(REFERENCE)
    await claims.prepare(ClaimReference("ns", "next", "3-4"))
    assert claims.prepared.value.keys() == {"3-4"}


def _pods(claims: Claims) -> tuple[str, ...]:
    return claims.prepared.value["1-2"].pods


@asynccontextmanager
async def _following_pods(claims: Claims, held: Callable[[], Held]) -> AsyncIterator[None]:
    task = asyncio.create_task(claims.follow_pods(held))
    try:
        async with asyncio.timeout(30):
            yield
    finally:
        task.cancel()


async def test_pod_that_joins_a_prepared_claim_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kubelet prepares a claim for its first pod alone; another joins later, and is deleted by force."""
    monkeypatch.setattr(claims_module, "_PODS_EVERY", 0.001)
    server = {"mine": _reserved("1-2", "pod-1")}
    running: set[str] = set()
    held = {NAME: OF_A_POD}

    async def fetch(_namespace: str, name: str) -> Mapping[str, Any] | None:
        return server.get(name)

    claims = Claims(_layout(tmp_path), _node(_u200(), running=running.intersection), fetch)
    await claims.prepare(REFERENCE)
    async with _following_pods(claims, lambda: held):
        server["mine"] = _reserved("1-2", "pod-2")  # the first pod has ended
        held[NAME] = (Holder("ns", "another", "main", DRIVER, NAME, "mine"),)
        await claims.prepared.until(lambda _: _pods(claims) == ("pod-1", "pod-2"))
    assert Checkpoint(str(tmp_path), dict).read().claims == claims.prepared.value
    running.add("pod-2")
    with pytest.raises(ClaimRefused, match="still runs"):
        await claims.unprepare(REFERENCE)
    server["mine"] = _reserved("1-2", "pod-3")
    await claims.prepare(REFERENCE)  # as after a restart of kubelet
    assert _pods(claims) == ("pod-1", "pod-2", "pod-3")


async def test_pods_of_an_entry_without_them_are_read_when_the_server_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An older version wrote the entry."""
    monkeypatch.setattr(claims_module, "_PODS_EVERY", 0.001)
    monkeypatch.setattr(claims_module, "_PODS_RETRY", 0.001)
    _write(tmp_path, CLAIM)
    asked = 0

    async def fetch(_namespace: str, _name: str) -> Mapping[str, Any] | None:
        nonlocal asked
        asked += 1
        if asked < 3:
            raise ClaimRefused("API server: no answer")
        return _reserved("1-2", "pod-1")

    claims = Claims(_layout(tmp_path), _node(_u200()), fetch)
    rounds = 0

    def held() -> Held:
        nonlocal rounds
        rounds += 1
        return {NAME: OF_A_POD}

    async def more_rounds() -> None:
        before = rounds
        while rounds < before + 3:
            await asyncio.sleep(0.001)

    async with _following_pods(claims, held):
        await more_rounds()
        await claims.mend()
        await claims.prepared.until(lambda _: _pods(claims) == ("pod-1",))
        await more_rounds()
    assert asked == 3, "once for each pod"


async def test_pods_of_a_claim_that_was_made_again_are_not_its_own(tmp_path: Path) -> None:
    _write(tmp_path, CLAIM)
    claims = Claims(_layout(tmp_path), _node(_u200()), _server(_reserved("3-4", "pod-1")))
    await claims.mend()
    await claims._note_pods(CLAIM)
    assert _pods(claims) == ()


async def test_pods_that_have_ended_are_forgotten_where_there_are_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One pod after the other may have a claim that is prepared for good."""
    monkeypatch.setattr(claims_module, "_MAX_PODS", 3)
    _write(tmp_path, dataclasses.replace(CLAIM, pods=("pod-1", "pod-2", "pod-3")))
    node = _node(_u200(), running={"pod-2"}.intersection)
    claims = Claims(_layout(tmp_path), node, _server(_reserved("1-2", "pod-3", "pod-4")))
    await claims.mend()
    await claims._note_pods(claims.prepared.value["1-2"])
    assert _pods(claims) == ("pod-2", "pod-3", "pod-4")


async def test_device_that_is_no_longer_shared_is_given_to_no_further_claim(tmp_path: Path) -> None:
    """Its slice may still show a slot that has just become free."""
    found = [_allocated(uid, name=uid, shareID=f"share-{uid}") for uid in ("1", "2", "3")]
    one, two, three = (ClaimReference("ns", uid, uid) for uid in ("1", "2", "3"))
    shared = Claims(_layout(tmp_path), _node(_u200(), shared=True), _server(*found))
    for each in (one, two):
        await shared.prepare(each)
    claims = Claims(_layout(tmp_path), _node(_u200()), _server(*found))
    for each in (one, two):
        await claims.prepare(each)  # as after a restart of kubelet
    await claims.unprepare(one)
    with pytest.raises(ClaimRefused, match=r"still prepared for the ResourceClaim ns/2 \(2\)"):
        await claims.prepare(three)
    await claims.unprepare(two)
    await claims.prepare(three)
    assert claims.prepared.value.keys() == {"3"}


async def test_device_that_is_read_again_heals_by_a_scan_only(tmp_path: Path) -> None:
    """A claim with access of an administrator, or a toleration, reads it: its taint stays."""
    noted: list[Device] = []
    for reason in (Reason.HELD, Reason.OFFLINE):
        seen = PoolDevice(NAME, "x.com/a", (device(reason=reason),))

        async def refresh(seen: Device) -> Device:
            return dataclasses.replace(seen, nodes=("/dev/dri/renderD200",), reason=None)

        allocated = _allocated("1-2", adminAccess=True)
        node = _node(seen, refresh=refresh, refreshed=noted.extend)
        claims = Claims(_layout(tmp_path), node, _server(allocated))
        await claims.prepare(REFERENCE)
        assert "renderD200" in _spec(tmp_path, "1-2")
    assert [(each.reason, each.nodes) for each in noted] == [
        (reason, ("/dev/dri/renderD200",)) for reason in (Reason.HELD, Reason.OFFLINE)
    ]


@pytest.mark.parametrize(("admin", "refused"), [(False, True), (True, False)])
async def test_half_of_a_held_card_is_refused(tmp_path: Path, admin: bool, refused: bool) -> None:
    """A pod of the device plugin holds both devices, of which podresources shows the one that is gone."""
    seen = PoolDevice(NAME, "x.com/a", (device(reason=Reason.HELD),))

    async def refresh(seen: Device) -> Device:
        return dataclasses.replace(seen, reason=None)

    allocated = _allocated("1-2", adminAccess=admin, tolerations=[{"operator": "Exists"}])
    claims = Claims(_layout(tmp_path), _node(seen, refresh=refresh), _server(allocated))
    with pytest.raises(ClaimRefused, match="is Unhealthy: held") if refused else nullcontext():
        await claims.prepare(REFERENCE)
    assert Path(_layout(tmp_path).spec_path("1-2")).exists() is not refused


async def test_documents_that_hang_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    claims = Claims(_layout(tmp_path), _node(), _server())
    monkeypatch.setattr(claims._threads, "_limit", 0)
    await claims.mend()
    assert [getattr(each, "error", None) for each in caplog.records] == ["0 earlier calls have not returned"]


async def test_document_that_can_not_be_written_keeps_no_other_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = dataclasses.replace(CLAIM, uid="3-4", name="other", results=(SECOND_RESULT,))
    _write(tmp_path, CLAIM, other)
    layout = _layout(tmp_path)
    cdi = Path(layout.cdi_dir)
    blocked = Path(layout.spec_path(CLAIM.uid))
    blocked.mkdir(parents=True)
    left = Path(layout.spec_path("5-6"))
    left.touch()
    claims = Claims(layout, _node(_u200(), SECOND_ALONE), _server())
    await claims.mend()
    assert claims.prepared.value.keys() == {CLAIM.uid, other.uid}
    assert {path.name for path in cdi.iterdir() if other.uid in path.name} == {
        Path(path).name for path in layout.paths(other)[0]
    }
    assert not left.exists()
    [logged] = caplog.records
    assert str(blocked) in getattr(logged, "error", "")
    blocked.rmdir()
    await claims.mend()
    assert CLAIM.uid in _spec(tmp_path, CLAIM.uid)


async def test_older_instance_puts_back_missing_documents_only(tmp_path: Path) -> None:
    """It may have other settings; each would write over what the other has written, without end."""
    _write(tmp_path, CLAIM)
    older = True

    async def all_exist(_limit: float, _paths: object) -> tuple[str, ...]:
        return ("/opt/new", "/opt/old")

    new = Claims(_layout(tmp_path), _node(_u200(), mounts=all_exist, extra_mounts=("/opt/new",)), _server())
    node = _node(_u200(), mounts=all_exist, extra_mounts=("/opt/old",), standby=lambda: older)
    old = Claims(_layout(tmp_path), node, _server())
    await new.mend()
    await old.mend()
    assert "/opt/new" in _spec(tmp_path, CLAIM.uid)
    Path(_layout(tmp_path).spec_path(CLAIM.uid)).unlink()
    await old.mend()
    assert "/opt/old" in _spec(tmp_path, CLAIM.uid)
    await new.mend()
    assert "/opt/new" in _spec(tmp_path, CLAIM.uid)
    older = False
    await old.mend()
    assert "/opt/old" in _spec(tmp_path, CLAIM.uid)


async def test_names_may_be_as_long_as_the_api_allows(tmp_path: Path) -> None:
    """Together, namespace and name of a claim may be longer than a file's name can be."""
    long = ".".join(["a" * 63] * 4)[:253]
    found = _allocated("1-2", name=long)
    claims = Claims(_layout(tmp_path), _node(_u200()), _server(found))
    reference = ClaimReference("ns", long, "1-2")
    await claims.prepare(reference)
    assert len(list(tmp_path.glob("dra-device-metadata/*/fpga/metadata.json"))) == 1
    await claims.unprepare(reference)
    assert not list(tmp_path.glob("dra-device-metadata/*"))


def test_refusal_has_a_sentence() -> None:
    with pytest.raises(ValueError, match="sentence"):
        ClaimRefused("")


FIRST, SECOND = (device(f"0000:6{each}:00.1", board="u30") for each in "56")
CARD = PoolDevice(NAME, "x.com/a", (FIRST, SECOND))
FIRST_ALONE = PoolDevice(NAME, "x.com/a", (FIRST,))
SECOND_ALONE = PoolDevice("pci-0000-66-00-1", "x.com/a", (SECOND,))


def _of_a_u30(folder: Path, *devices: PoolDevice) -> Claims:
    """Return the claims after a start with these devices of a card with two."""
    other = _allocated("3-4", SECOND_ALONE.name, name="other")
    return Claims(_layout(folder), _node(*devices), _server(_allocated("1-2"), other))


async def _prepare_other(claims: Claims) -> object:
    return await claims.prepare(ClaimReference("ns", "other", "3-4"))


@pytest.mark.parametrize("devices", [(SECOND_ALONE,), (FIRST_ALONE, SECOND_ALONE)], ids=["gone", "split"])
async def test_claim_keeps_both_devices_of_its_card(tmp_path: Path, devices: tuple[PoolDevice, ...]) -> None:
    """The first is off the bus, or a restart makes each of them a card of its own."""
    await _of_a_u30(tmp_path, CARD).prepare(REFERENCE)
    claims = _of_a_u30(tmp_path, *devices)
    await claims.mend()
    if FIRST_ALONE in devices:
        await claims.prepare(REFERENCE)  # as after a restart of kubelet
    with pytest.raises(ClaimRefused, match="still prepared for the ResourceClaim ns/mine"):
        await _prepare_other(claims)
    await claims.unprepare(REFERENCE)
    await _prepare_other(claims)


async def test_claim_of_half_a_card_gets_no_more_of_it(tmp_path: Path) -> None:
    """Another claim has the other half, and a restart makes both a card."""
    claims = _of_a_u30(tmp_path, FIRST_ALONE, SECOND_ALONE)
    await claims.prepare(REFERENCE)
    await _prepare_other(claims)
    claims = _of_a_u30(tmp_path, CARD)
    await claims.mend()
    await claims.prepare(REFERENCE)
    assert FIRST.address in _spec(tmp_path, "1-2")
    assert SECOND.address not in _spec(tmp_path, "1-2")
    assert SECOND.address in _spec(tmp_path, "3-4")


@pytest.mark.parametrize(
    ("stored", "held", "kept"),
    [
        (None, {}, False),
        ("3-4", {}, False),
        ("1-2", {}, True),
        (None, {ADDRESS: OF_A_POD}, True),
        (None, {NAME: OF_A_POD}, True),
        (None, {ADDRESS: (Holder("ns", "pod", "main", "x.com/a", ADDRESS),)}, False),
        (ClaimRefused("API server: no answer"), {}, True),
    ],
    ids=["gone", "made again", "there", "of a pod", "of a pod by name", "of a device plugin", "not known"],
)
async def test_claim_that_is_gone_from_server_and_kubelet_is_undone(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stored: str | ClaimRefused | None,
    held: Held,
    kept: bool,
) -> None:
    monkeypatch.setattr(claims_module, "_SWEEP_EVERY", 0.001)
    _write(tmp_path, CLAIM)
    asked = 0

    async def fetch(_namespace: str, _name: str) -> Mapping[str, Any] | None:
        nonlocal asked
        asked += 1
        if isinstance(stored, ClaimRefused):
            raise stored
        return {"metadata": {"uid": stored}} if stored else None

    async def holders() -> Held:
        return held

    claims = Claims(_layout(tmp_path), _node(held=holders), fetch)
    await claims.mend()
    assert claims.prepared.value.keys() == {CLAIM.uid}
    sweep = asyncio.create_task(claims.sweep())
    try:
        async with asyncio.timeout(30):
            while asked < 3 and claims.prepared.value:
                await asyncio.sleep(0.001)
    finally:
        sweep.cancel()
    assert (CLAIM.uid in claims.prepared.value) is kept
    assert (CLAIM.uid in Checkpoint(str(tmp_path), dict).read().claims) is kept
