"""Keeping a frozen encoder's features: every frame is encoded once, not once an epoch and a stage.

    DIR/<encoder, preprocessing, precision>/<sha256 of a tar>.npy     [rows, N, D], every different clip of the tar once
                                            <sha256 of a tar>.json    where each sample's rows are; written last

Both names are digests of what the features follow from, so that features of another encoder or of other shards are never found.
Letters: M frames of a clip, N patch tokens of a frame, D = d_vision.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tstar.errors import ConfigError, DataError
from tstar.vision.base import VisionEncoder

FORMAT = 2
"""Goes up whenever the same encoder and tar would give other files."""
FRAMES_AT_ONCE = 256
"""Frames of successive samples that are handed to the encoder together."""
HEADER_BYTES = 128
STALE_SECONDS = 86_400
OPEN_FILES = 64
INDIFFERENT = ("model", "pretrained", "slice_size")
"""Settings of an encoder that features do not depend on, but for rounding: where its weights came from, frames encoded at once."""

Clip = Tensor | int | str
"""What becomes of one sample: frames uint8 [M, 3, S, S], the number of an earlier sample of its shard with the very same
frames, or the reason why it cannot be used."""
Shard = tuple[str, range, int]
"""sha256 of a tar, running numbers of its samples, frames in it."""
Clips = Callable[[range], Iterable[Clip]]
Update = Callable[[int, int], None]


@contextmanager
def no_bar(title: str, unit: str) -> Iterator[Update]:
    """Progress that nobody sees."""
    yield lambda done, total: None


class FeatureCache:
    """Features of one encoder below a folder.

    Args:
        folder: ``data.features``; several encoders and runs may share it.
        encoder: frozen; its weights and settings are part of what is looked for.
        resized: how stored pictures become the encoder's square; likewise.
        dtype: "float16" or "float32", of what is stored.
        tell: called with lines for the user.
        bar: shows progress, as :func:`no_bar` does not.
    """

    def __init__(
        self,
        folder: Path,
        encoder: VisionEncoder,
        resized: str,
        dtype: str = "float16",
        *,
        tell: Callable[[str], None] = print,
        bar: Callable[[str, str], AbstractContextManager[Update]] = no_bar,
    ) -> None:
        self.encoder, self.dtype, self.tell, self.bar = encoder, np.dtype(dtype), tell, bar
        self.key = features_key(encoder, resized, dtype)
        self.folder = folder / self.key

    def fill(self, shards: Sequence[Shard], clips: Clips, device: torch.device | None = None) -> None:
        """Encode the shards whose features are not there whole. Each is finished by itself: a kill loses one at most.

        Args:
            shards: what to encode.
            clips: called with sample numbers of one shard, gives what becomes of each.
            device: where to encode; default where the encoder is, and it is back there afterwards.

        Raises:
            ConfigError: a feature is too large for ``dtype``.
            DataError: the folder cannot be written.
        """
        missing = [shard for shard in shards if not self._is_whole(shard, clips)]
        begun, total = time.monotonic(), sum(frames for _, _, frames in missing)
        encoded = passed = 0
        if missing:
            self._prepare_folder()
            with self.bar("features", "frames") as update, _on(self.encoder, device):

                def count(frames: int) -> None:
                    nonlocal passed
                    passed += frames
                    update(passed, total)

                for shard in missing:
                    with self._alone():
                        if not self._is_whole(shard, clips):  # another run may have encoded it meanwhile
                            encoded += self._write(shard[0], shard[1], clips, count)
        entries = [self._entry(name, numbers) for name, numbers, _ in shards]
        samples, rows, size = (sum(column) for column in zip(*map(_sizes, entries), strict=True))
        new = f"{encoded} encoded in {time.monotonic() - begun:.1f} s" if missing else "all there before"
        self.tell(
            f"      features: {samples} samples, {rows} different frames, {new}; {size / 2**20:.1f} MiB in {self.folder}"
        )

    def open(self, shards: Sequence[Shard]) -> "StoredFeatures":
        """What :meth:`fill` left, by sample; :class:`DataError` where it is not there."""
        paths = [self._path(name) for name, _, _ in shards]
        return StoredFeatures(paths, [self._entry(name, numbers) for name, numbers, _ in shards])

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.npy"

    def _prepare_folder(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"data.features: cannot make {self.folder} ({error}); choose another folder") from error
        for leftover in self.folder.glob("*.tmp"):  # of a killed run; a fresh one may be another run's work
            with contextlib.suppress(OSError):
                if time.time() - leftover.stat().st_mtime > STALE_SECONDS:
                    leftover.unlink()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Let other processes wait that would encode the same shards; the system ends the wait if this one dies."""
        folder = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)

    def _is_whole(self, shard: Shard, clips: Clips) -> bool:
        """Whether a shard's features can be used, to the last byte; says so where they are there and cannot."""
        name, numbers, _ = shard
        if not self._path(name).with_suffix(".json").is_file():
            return False
        try:
            entry = self._entry(name, numbers)
            with self._path(name).open("rb") as stream:
                if _digest(stream, entry) != entry["digest"]:
                    raise DataError(f"{self._path(name)} is damaged (checksum differs)")
            for place, reason in entry["damaged"].items():  # repairing a tar does not change its recorded digest
                (now,) = clips(numbers[int(place) : int(place) + 1])
                if not isinstance(now, str) or now != reason:
                    raise DataError(f"{self._path(name)} lacks a sample that was damaged and has changed")
        except (DataError, OSError, KeyError) as error:
            why = "the manifest is damaged" if isinstance(error, KeyError) else error
            self.tell(f"note: features of {name} are made again: {why}")
            return False
        return True

    def _entry(self, name: str, numbers: range) -> dict[str, Any]:
        """A shard's manifest, and that the file beside it has its size."""
        path = self._path(name)
        try:
            entry = json.loads(path.with_suffix(".json").read_text())
            expected = (self.key, name, len(numbers))
            if (entry["key"], entry["shard"], len(entry["clips"])) != expected:
                raise DataError(f"{path.with_suffix('.json')} is of another shard or encoder")
            size = path.stat().st_size
            if size != entry["bytes"] or size != HEADER_BYTES + entry["rows"] * self._row_bytes:
                raise DataError(f"{path} has {size} bytes where {entry['bytes']} were written")
            return entry
        except FileNotFoundError as error:
            remedy = "data.features must be a folder that every process sees"
            raise DataError(f"{error.filename} is missing; {remedy}") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{path.with_suffix('.json')} is damaged ({type(error).__name__}: {error})") from error

    @property
    def _row_bytes(self) -> int:
        return self.encoder.num_patches * self.encoder.d_vision * self.dtype.itemsize

    def _write(self, name: str, numbers: range, clips: Clips, count: Callable[[int], None]) -> int:
        """Encode one shard; returns the number of different frames."""
        path, temporary = self._path(name), self.folder / f".{name}.{os.getpid()}.tmp"
        spans: list[tuple[int, int]] = []
        damaged: dict[str, str] = {}
        rows = 0

        def different_frames() -> Iterator[Tensor]:
            nonlocal rows
            for clip in clips(numbers):
                if isinstance(clip, str):
                    damaged[str(len(spans))] = clip
                    spans.append((0, 0))
                elif isinstance(clip, int):
                    spans.append(spans[clip - numbers.start])
                else:
                    spans.append((rows, len(clip)))
                    rows += len(clip)
                    yield clip
                count(spans[-1][1])

        try:
            with temporary.open("wb+") as stream:
                stream.write(bytes(HEADER_BYTES))
                for frames in _gather(different_frames(), FRAMES_AT_ONCE):
                    stream.write(stored_features(self.encoder, frames, self.dtype).data)
                stream.seek(0)
                stream.write(self._header(rows))
                stream.flush()
                os.fsync(stream.fileno())
                entry = {"key": self.key, "shard": name, "rows": rows, "bytes": os.fstat(stream.fileno()).st_size}
                entry |= {"clips": [list(span) for span in spans], "damaged": damaged}
                stream.seek(0)
                entry["digest"] = _digest(stream, entry)
            temporary.replace(path)
            temporary.write_text(json.dumps(entry))
            temporary.replace(path.with_suffix(".json"))
        except OSError as error:  # those of reading shards are a sample's damage
            remedy = "free space or choose another folder"
            raise DataError(f"data.features: cannot write {path} ({error}); {remedy}") from error
        finally:
            temporary.unlink(missing_ok=True)
        return rows

    def _header(self, rows: int) -> bytes:
        """That of a ``.npy`` file, of a length that does not depend on ``rows``, which are known last."""
        shape = (rows, self.encoder.num_patches, self.encoder.d_vision)
        text = f"{{'descr': '{self.dtype.str}', 'fortran_order': False, 'shape': {shape}, }}"
        length = HEADER_BYTES - 10
        return b"\x93NUMPY\x01\x00" + length.to_bytes(2, "little") + text.ljust(length - 1).encode() + b"\n"


class StoredFeatures:
    """Features by running number of the sample. A process that it is handed to maps the files itself.

    Args:
        paths: one file a shard.
        entries: their manifests.
    """

    def __init__(self, paths: list[Path], entries: list[dict[str, Any]]) -> None:
        self.paths = paths
        self._starts = np.cumsum([0, *(len(entry["clips"]) for entry in entries)])
        self._spans = [np.array(entry["clips"], dtype=np.int64).reshape(-1, 2) for entry in entries]
        self._damaged = [entry["damaged"] for entry in entries]
        self._files: dict[int, np.ndarray] = {}

    def __call__(self, number: int) -> Tensor:
        """[M, N, d_vision] of one sample, M = 0 for text; :class:`DataError` if it was damaged when it was to be encoded."""
        shard = int(np.searchsorted(self._starts, number, side="right")) - 1
        place = number - int(self._starts[shard])
        if str(place) in self._damaged[shard]:
            raise DataError(self._damaged[shard][str(place)])
        if shard not in self._files:
            if len(self._files) >= OPEN_FILES:
                del self._files[next(iter(self._files))]
            self._files[shard] = np.load(self.paths[shard], mmap_mode="r", allow_pickle=False)
        first, count = self._spans[shard][place]
        return torch.from_numpy(np.array(self._files[shard][first : first + count]))

    def __getstate__(self) -> dict[str, Any]:
        """Pickling a mapped array would copy all of it."""
        return {**self.__dict__, "_files": {}}


def stored_features(encoder: VisionEncoder, frames: Tensor, dtype: np.dtype) -> np.ndarray:
    """Frames uint8 [M, 3, S, S] to what is stored, [M, N, D]; :class:`ConfigError` if a value is too large for ``dtype``."""
    with torch.no_grad():
        features = encoder(frames.to(next(encoder.parameters()).device)).float().cpu()
    with np.errstate(over="ignore"):
        stored = features.numpy().astype(dtype)
    if dtype == np.float16 and not np.isfinite(stored).all():
        raise ConfigError(
            f"data.features_dtype: features as large as {features.abs().max():.4g} cannot be stored as float16, which "
            "ends at 65504; set data.features_dtype to float32"
        )
    return np.ascontiguousarray(stored)


def features_key(encoder: VisionEncoder, resized: str, dtype: str) -> str:
    """What stored features follow from, as a digest: the encoder, how pictures become its square, and both precisions."""
    pictures = f"{resized} {encoder.image_size}"
    return encoder_digest(encoder, f"{FORMAT} {pictures} {dtype} {torch.get_float32_matmul_precision()}")


def encoder_digest(encoder: VisionEncoder, more: str) -> str:
    """Hash of all that decides features: weights, constants, every module's kind and plain settings, and ``more``."""
    digest = hashlib.blake2b(more.encode(), digest_size=16)
    config = getattr(encoder, "config", None)
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        settings = dataclasses.asdict(config).items()
        digest.update(repr([pair for pair in settings if pair[0] not in INDIFFERENT]).encode())
    for name, module in encoder.named_modules():
        plain = sorted((k, v) for k, v in vars(module).items() if k != "training" and _is_plain(v))
        digest.update(f"{name} {type(module).__qualname__} {plain}".encode())
    for name, tensor in (dict(encoder.named_parameters()) | dict(encoder.named_buffers())).items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _sizes(entry: dict[str, Any]) -> tuple[int, int, int]:
    """Samples, different frames and bytes of a shard's features."""
    return len(entry["clips"]), entry["rows"], entry["bytes"]


def _is_plain(value: Any) -> bool:
    values = value if isinstance(value, tuple) else (value,)
    return all(isinstance(v, (bool, int, float, str)) for v in values)


def _digest(stream: Any, entry: dict[str, Any]) -> str:
    """Hash of a features file and of where each sample lies in it."""
    digest = hashlib.blake2b(json.dumps([entry["clips"], entry["damaged"]]).encode(), digest_size=16)
    while block := stream.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def _gather(clips: Iterable[Tensor], count: int) -> Iterator[Tensor]:
    """Successive clips end to end, at least ``count`` frames together but for the last."""
    waiting: list[Tensor] = []
    for clip in clips:
        waiting.append(clip)
        if sum(map(len, waiting)) >= count:
            yield torch.cat(waiting)
            waiting = []
    if any(map(len, waiting)):
        yield torch.cat(waiting)


@contextmanager
def _on(encoder: VisionEncoder, device: torch.device | None) -> Iterator[None]:
    before = next(encoder.parameters()).device
    encoder.to(device or before)
    try:
        yield
    finally:
        encoder.to(before)
