"""Writing of shards; an interrupted run continues."""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import soundfile
from lhotse import AudioSource, Recording
from lhotse.audio.backend import audio_backend
from lhotse.cut import Cut
from lhotse.shar import SharWriter
from numpy.typing import NDArray

from streamnest.data.audio import BadAudioError, load_channels
from streamnest.data.shards.index import FILE, ShardIndex, cuts_name, tar_name
from streamnest.data.shards.indexing import index_shard
from streamnest.data.shards.plan import PLAN, Plan, load_plan
from streamnest.data.shards.remote import StoreError
from streamnest.data.shards.store import PARTS, Store, open_store
from streamnest.errors import UserError

_DROPPED = "cuts.dropped.json"
Dropped = Counter[str]


def write_shards(
    cuts: Sequence[Cut], location: str, plan: Plan, jobs: int = 1, advance: Callable[[int], None] = lambda count: None
) -> tuple[ShardIndex, Dropped]:
    """Writes the shards that do not exist yet.

    Args:
        cuts: cuts with the sampling rate of the plan.
        location: folder or URL.
        plan: plan of these cuts.
        jobs: number of processes.
        advance: callback that receives the number of newly finished shards.

    Returns:
        The index, and the number of dropped cuts by cause.

    Raises:
        UserError: if the location holds other data.
    """
    store = open_store(location)
    _claim(store, location, plan)
    todo = []
    for shard in range(plan.num_shards):
        if store.size(FILE) is not None or store.size(_part(shard)) is not None:
            advance(1)
        else:
            todo.append(shard)
    for _ in _run(cuts, location, plan, todo, jobs):
        advance(1)
    return _finish(store, plan)


def _claim(store: Store, location: str, plan: Plan) -> None:
    found = load_plan(store, location)
    if found is None:
        if store.size(cuts_name(0)) is not None or store.size(tar_name(0)) is not None:
            raise UserError(f"{location}: contains shards without a {PLAN}; choose another location")
        _put_json(store, PLAN, asdict(plan))
    elif found != plan:
        changed = [key for key, value in asdict(plan).items() if getattr(found, key) != value]
        raise UserError(f"{location}: contains shards with another {' and '.join(changed)}; choose another location")


def _run(cuts: Sequence[Cut], location: str, plan: Plan, todo: Sequence[int], jobs: int) -> Iterator[None]:
    work = ((location, plan, shard, cuts[shard * plan.shard_size :][: plan.shard_size]) for shard in todo)
    if jobs <= 1 or len(todo) <= 1:
        for arguments in work:
            write_shard(*arguments)
            yield
        return
    # Spawned, because threads of torch and of connections do not survive a fork.
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for done in as_completed([pool.submit(write_shard, *arguments) for arguments in work]):
            yield done.result()


def write_shard(location: str, plan: Plan, shard: int, cuts: Sequence[Cut]) -> None:
    """Writes one shard: archive, cuts, and last its part of the index, which marks it as finished."""
    store, dropped = open_store(location), Counter[str]()
    with store.workspace() as folder:
        options = {"shard_size": len(cuts), "shard_offset": shard, "warn_unused_fields": False}
        # Other backends of Lhotse write Opus only at 48 kHz.
        with audio_backend("LibsndfileBackend"), SharWriter(folder, {"recording": plan.format}, **options) as writer:
            for cut in _readable(cuts, dropped):
                writer.write(cut)
        part = index_shard(folder, shard, plan.sampling_rate)
        for name in (tar_name(shard), cuts_name(shard)) if len(part) else ():
            store.put(name, folder / name)
        part.save(folder / "part")
        _put_json(store, _dropped(shard), dropped)
        store.put(_part(shard), folder / "part")


def _finish(store: Store, plan: Plan) -> tuple[ShardIndex, Dropped]:
    """Joins the parts of the index and removes them."""
    try:
        return _join(store, plan)
    except (UserError, StoreError):
        raise
    # Damaged archives and arrays raise many exceptions.
    except (ValueError, TypeError, KeyError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(
            f"{store}: files of an earlier run are damaged ({type(error).__name__}: {error}); remove all of them and "
            "write the shards again"
        ) from error


def _join(store: Store, plan: Plan) -> tuple[ShardIndex, Dropped]:
    if store.size(FILE) is None:
        dropped: Dropped = sum(
            (Counter(json.loads(store.load(_dropped(i)))) for i in range(plan.num_shards)), Counter()
        )
        index = ShardIndex.join([ShardIndex.from_bytes(store.load(_part(i))) for i in range(plan.num_shards)])
        _put_json(store, _DROPPED, dropped)
        with store.workspace() as folder:
            # The index of a folder is mapped and therefore uncompressed; that of an object store is downloaded.
            index.save(folder / "index", compressed=store.path(FILE) is None)
            store.put(FILE, folder / "index")
    store.clear(PARTS)
    return ShardIndex.from_bytes(store.load(FILE)), Counter(json.loads(store.load(_DROPPED)))


def _readable(cuts: Iterable[Cut], dropped: Dropped) -> Iterator[Cut]:
    for cut in cuts:
        try:
            audio = load_channels(cut)
        except BadAudioError as error:
            dropped[error.cause] += 1
            continue
        yield _with_audio(cut, audio)


def _with_audio(cut: Cut, audio: NDArray[Any]) -> Cut:
    """Returns a cut with its audio in memory, so that mixing, resampling and transforms become a plain recording."""
    file = io.BytesIO()
    soundfile.write(file, audio.T, cut.sampling_rate, format="WAV", subtype="FLOAT")
    channels, num_samples = list(range(len(audio))), audio.shape[1]
    source = AudioSource("memory", channels, file.getvalue())
    recording = Recording(
        id=cut.id,
        sources=[source],
        sampling_rate=cut.sampling_rate,
        num_samples=num_samples,
        duration=num_samples / cut.sampling_rate,
        channel_ids=channels,
    )
    plain = recording.to_cut()
    plain.id, plain.duration, plain.supervisions = cut.id, cut.duration, cut.supervisions
    custom = getattr(cut, "custom", None) or {}
    # Features and other recordings are not copied; references to them would be broken.
    plain.custom = {
        key: value for key, value in custom.items() if isinstance(value, (str, int, float, bool, list, dict))
    }
    return plain


def _part(shard: int) -> str:
    return f"{PARTS}/{shard:06d}.npz"


def _dropped(shard: int) -> str:
    return f"{PARTS}/{shard:06d}.json"


def _put_json(store: Store, name: str, value: Any) -> None:
    with store.workspace() as folder:
        path = Path(folder) / "json"
        path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
        store.put(name, path)
