"""Parts of the data benchmark, each in a process of its own.

    python benchmarks/data_cases.py PART SETTINGS

is how ``data.py`` calls it; the last line it prints is JSON.
"""

import contextlib
import io
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image
from timing import measure_together, to_json

from tstar.data.frame_sampling import FrameSampling, nearest_frames
from tstar.data.images import encode_image
from tstar.data.records import read_records
from tstar.data.shard_plan import plan_shards
from tstar.data.shard_set import ShardSet
from tstar.data.sharding import ShardWork, write_shards
from tstar.data.sharding_settings import ShardSettings
from tstar.data.stored_media import MediaReader, store_media
from tstar.reports.measured_cost import peak_of

TURNS = [
    {"from": "human", "value": "<image>\nWhat happens first?"},
    {"from": "gpt", "value": "A dog runs after a ball."},
]
FRAME_RATE = 24


def scenery(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
    """A picture as rich as a photograph, about: smooth shapes, edges and some grain; uint8 [height, width, 3]."""
    coarse = Image.fromarray(rng.integers(0, 256, (9, 16, 3), dtype=np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    picture = np.asarray(coarse).astype(np.int16)
    for _ in range(12):
        x, y = rng.integers(0, width), rng.integers(0, height)
        picture[y : y + height // 5, x : x + width // 6] = rng.integers(0, 256, 3)
    return np.clip(picture + rng.normal(0, 6, picture.shape), 0, 255).astype(np.uint8)


def film(path: Path, seconds: float, size: list[int], seed: int, rate: int = FRAME_RATE) -> Path:
    """An H.264 video of a slowly moving scenery."""
    rng = np.random.default_rng(seed)
    width, height = size
    wide = scenery(rng, 2 * width, height)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=rate, options={"preset": "ultrafast", "crf": "23"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1
        for number in range(round(seconds * rate)):
            shift = (3 * number) % width
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(wide[:, shift : shift + width]), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, rate)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


# streaming


def stream(case: dict[str, Any]) -> dict[str, Any]:
    """Batches of a shard set against a bare loop that decodes the same pictures in as many processes."""
    from torch.utils.data import DataLoader

    from tstar.data.batch import Processor
    from tstar.data.conversations import get_template
    from tstar.data.datamodule import ClipDataModule
    from tstar.data.loaders import LoaderSettings, PlannedLoader

    rng = np.random.default_rng(case["seed"])
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        shard_clips(folder, case, rng)
        shards = ShardSet([folder / "set"])
        numbers = list(range(len(shards)))
        jpegs = [shards.read(n).frames for n in numbers]
        processor = Processor(tokenizer(), get_template("miniature"), case["side"])
        module = ClipDataModule(processor, [str(folder / "set")], batch_size=4)
        batches = [numbers[i : i + 4] for i in range(0, len(numbers), 4)]
        works: dict[str, Callable[[], object]] = {}
        for workers in sorted({0, 1, case["workers"]}):
            planned = PlannedLoader(module.train_source, batches, LoaderSettings(workers, False))
            works[f"stream {workers}"] = lambda planned=planned: sum(map(len, planned))
            for name, decode in (("bare", with_torchvision), ("pillow", with_pillow)):
                bare = DataLoader(Bare(jpegs, decode), batch_sampler=batches, num_workers=workers, collate_fn=sum)
                works[f"{name} {workers}"] = lambda bare=bare: sum(bare)
        works["read tars"] = lambda: [shards.read(n) for n in numbers]
        works["read files"] = lambda: [(folder / "loose" / f"{n}").read_bytes() for n in numbers]
        for n, frames in enumerate(jpegs):
            (folder / "loose").mkdir(exist_ok=True)
            (folder / "loose" / f"{n}").write_bytes(b"".join(frames))
        times = measure_together(works, 0.0, rounds=case["rounds"], least=case["rounds"])
    size = sum(len(f) for frames in jpegs for f in frames)
    return {"times": to_json(times), "frames": sum(map(len, jpegs)), "bytes": size}


def shard_clips(folder: Path, case: dict[str, Any], rng: np.random.Generator) -> None:
    """Shards of clips of different JPEG frames, square as the encoder wants them; written as pictures, then joined to clips."""
    from tstar.data import sharding
    from tstar.data.annotations import Record
    from tstar.data.stored_media import StoredMedia

    pool = [encode_image(scenery(rng, case["side"], case["side"]), "jpeg", 90) for _ in range(max(8, case["clips"]))]
    clips = rng.integers(0, len(pool), (case["clips"], case["frames"]))

    def read(self: MediaReader, path: Path, modality: str) -> StoredMedia:
        chosen = clips[int(path.name)]
        return StoredMedia(tuple(pool[n] for n in chosen), tuple(map(float, range(len(chosen)))), float(len(chosen)))

    records = [Record(str(n), "video", str(n), tuple(TURNS)) for n in range(case["clips"])]
    plan = plan_shards(records, folder, folder / "set", ShardSettings(samples_per_shard=16))
    original, sharding.MediaReader.read = sharding.MediaReader.read, read  # type: ignore[method-assign]
    try:
        write_shards(plan, ShardWork(workers=1))
    finally:
        sharding.MediaReader.read = original  # type: ignore[method-assign]


class Bare:
    """Decodes the pictures of a clip and hands over how many they were, nothing else."""

    def __init__(self, clips: list[tuple[bytes, ...]], decode: Callable[[bytes], Any]) -> None:
        self.clips, self.decode = clips, decode

    def __getitem__(self, number: int) -> int:
        return sum(self.decode(data).ndim == 3 for data in self.clips[number])

    def __len__(self) -> int:
        return len(self.clips)


def with_pillow(data: bytes) -> np.ndarray:
    """The usual way."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def with_torchvision(data: bytes) -> Any:
    """The quickest way there is in what tstar installs."""
    import torch
    from torchvision.io import decode_jpeg

    return decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8))


def tokenizer() -> Any:
    """That of the miniature's language model."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(Path(__file__).parents[1] / "tstar/pretrained/miniature/language")


# sharding


def shard(case: dict[str, Any]) -> dict[str, Any]:
    """``tstar shard`` against bare decoding with decord and JPEG encoding, in as many processes."""
    settings = ShardSettings(fps=2, max_frames=64, short_side=336, samples_per_shard=32)  # published sets have 256
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        records = []
        for n in range(case["videos"]):
            film(folder / f"{n}.mp4", case["video_seconds"], case["video_size"], case["seed"] + n)
            records.append({"id": str(n), "video": f"{n}.mp4", "conversations": TURNS})
        (folder / "a.json").write_text(json.dumps(records))
        paths = [folder / f"{n}.mp4" for n in range(case["videos"])]
        turn = iter(range(10**6))

        def ours() -> None:
            from tstar.data.public_sets import get_set

            reading = read_records([folder / "a.json"], get_set("plain"))
            plan = plan_shards(reading.records, folder, folder / f"out{next(turn)}", settings)
            summary = write_shards(plan, ShardWork(workers=case["workers"], time_limit=300.0))
            assert summary.samples == len(paths)

        def bare() -> None:
            with ProcessPoolExecutor(case["workers"], mp_context=get_context("spawn")) as pool:
                assert min(pool.map(bare_video, paths)) > 0

        times = measure_together({"shard": ours, "bare": bare}, 0.0, rounds=max(1, case["rounds"] // 2), least=3)
        size = sum(p.stat().st_size for p in (folder / "out0").glob("*.tar"))
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    return {"times": to_json(times), "videos": len(paths), "bytes": size, "largest_process_bytes": children}


def bare_video(path: Path) -> int:
    """Decode the frames that sharding takes and code them, from a video whose times are known; bytes of the JPEGs."""
    import decord

    reader = decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1)
    starts = np.arange(len(reader)) / reader.get_avg_fps()
    chosen = nearest_frames(FrameSampling(fps=2, max_frames=64).times(len(reader) / reader.get_avg_fps()), starts)
    size = 0
    for pixels in reader.get_batch(chosen.tolist()).asnumpy():
        buffer = io.BytesIO()
        height, width = pixels.shape[:2]
        image = Image.fromarray(pixels)
        if min(height, width) > 336:
            scale = 336 / min(height, width)
            image = image.resize((round(width * scale), round(height * scale)), Image.Resampling.BICUBIC)
        image.save(buffer, "jpeg", quality=90)
        size += buffer.tell()
    return size


def memory(case: dict[str, Any]) -> dict[str, Any]:
    """Peaks of storing a short and an hour-long video, and one of large frames."""
    settings = ShardSettings()
    sides = [case["video_size"], case["video_size"], [3840, 2160] if not case["quick"] else [128, 96]]
    lengths = [*case["long_seconds"], case["long_seconds"][0] / 4]
    rows = []
    with tempfile.TemporaryDirectory() as name:
        small = film(Path(name) / "small.mp4", 1, [64, 64], 0)
        store_media(small, "video", settings)  # libraries are loaded
        for n, (size, seconds) in enumerate(zip(sides, lengths, strict=True)):
            with ProcessPoolExecutor(
                1, mp_context=get_context("spawn")
            ) as pool:  # making it needs more than storing it
                rate = 2 if seconds > 600 else 10
                path = pool.submit(film, Path(name) / f"{n}.mp4", seconds, size, case["seed"], rate).result()
            stored: list[Any] = []
            begun = time.perf_counter()
            peak = peak_of(lambda path=path, stored=stored: stored.append(store_media(path, "video", settings)))
            rows.append(
                {
                    "seconds": seconds,
                    "size": size,
                    "frames": len(stored[0].frames),
                    "peak_bytes": peak,
                    "taken": time.perf_counter() - begun,
                }
            )
            path.unlink()
    total = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"videos": rows, "largest_process_bytes": total}


def decodes(case: dict[str, Any]) -> dict[str, Any]:
    """Resident memory after a tenth and after all of many decodes of one process, by decoder."""
    found = {}
    with tempfile.TemporaryDirectory() as name:
        path = film(Path(name) / "a.mp4", 1, [64, 64], case["seed"])
        for decoder in ("decord", "pyav"):
            settings = ShardSettings(fps=4, decoder=decoder)
            sizes = []
            for n in range(case["decodes"]):
                store_media(path, "video", settings)
                if (n + 1) % (case["decodes"] // 10) == 0:
                    sizes.append(resident())
            found[decoder] = sizes
    return {"decodes": case["decodes"], "resident_bytes": found}


def resident() -> int:
    """Memory of this process, bytes."""
    with contextlib.suppress(OSError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


# annotations


def annotations(case: dict[str, Any]) -> dict[str, Any]:
    """Reading, checking and filtering a file as large as LLaVA-Video-178K and laying it out over shards."""
    from tstar.data.public_sets import get_set

    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "a.json"
        with path.open("w") as out:
            out.write("[")
            for n, row in enumerate(rows(case["records"], case["seed"])):
                out.write(f"{', ' if n else ''}{json.dumps(row)}")
            out.write("]")
        size = path.stat().st_size
        before = resident()
        seconds = []
        reading = None
        for record_set in ("plain", "llava_mix665k"):
            del reading  # its file stays mapped as long
            begun = time.perf_counter()
            reading = read_records([path], get_set(record_set))
            seconds.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        plan = plan_shards(reading.records, Path(name), Path(name) / "out", ShardSettings())
        layout = time.perf_counter() - begun
        used = len(plan.records)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "records": case["records"],
        "bytes": size,
        "seconds": seconds[0],
        "seconds_filtered": seconds[1],
        "seconds_layout": layout,
        "used": used,
        "resident_before": before,
        "largest_process_bytes": peak,
    }


def rows(count: int, seed: int) -> Iterator[dict[str, Any]]:
    """Records about as long as those of LLaVA-Video-178K; one in fifty is about a box."""
    rng = np.random.default_rng(seed)
    words = np.array(
        ["the", "man", "walks", "slowly", "towards", "a", "table", "and", "picks", "up", "his", "cup", "while"]
    )
    sentences = [" ".join(rng.choice(words, int(n))) for n in rng.integers(20, 160, 200)]
    for n in range(count):
        question, answer = sentences[n % 200], sentences[(7 * n + 3) % 200]
        box = " [0.1, 0.2, 0.31, 0.4]" if n % 50 == 0 else ""
        yield {
            "id": f"academic_source-Charades-{n}",
            "conversations": [
                {"from": "human", "value": f"<image>\n{question}?"},
                {"from": "gpt", "value": f"{answer}.{box}"},
            ],
            "data_source": "0_30_s_academic_v0_1",
            "video": f"academic_source/Charades/{n // 7}.mp4",
        }


# training


def fit(case: dict[str, Any]) -> dict[str, Any]:
    """How long a stage of the miniature waits for batches, on a tiny world with features encoded beforehand and with frames."""
    from lightning.pytorch.profilers import SimpleProfiler

    from tstar.cli.fit import feature_cache
    from tstar.cli.main import main as tstar
    from tstar.cli.recipe import read_recipe
    from tstar.cli.stage_cli import build_stage
    from tstar.nn.precision import matmul_precision

    root = Path(__file__).parents[1]
    found = {}
    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stdout(sys.stderr):
        world = Path(name) / "world"
        tstar(["miniature", "--out", str(world), "--scale", "tiny"])
        for kind, stage in (("features", "align"), ("features", "video_sft"), ("frames", "video_sft")):
            shards = world / "shards" / stage
            passes = -(-case["fit_steps"] * 4 // len(ShardSet([shards])))
            settings = [
                ("stages." + stage + ".data.shards", f"[{shards}]"),
                ("data.val_shards", "null"),
                ("data.batch_size", "4"),
                ("data.features", str(world / "features") if kind == "features" else "null"),
                ("data.weights", f"[{passes}]"),
                ("trainer.max_epochs", "1"),
                ("trainer.max_steps", str(case["fit_steps"])),
                ("evaluation.benchmarks", "{}"),
            ]
            recipe = read_recipe([root / "stages/two_stage.yaml"], settings, None)
            config = recipe.stages[stage]
            config["model"]["init_args"]["init_from"] = None
            out = Path(name) / f"{kind}-{stage}"
            profiler = SimpleProfiler()
            cli = build_stage(config, out)
            cli.trainer.profiler = profiler
            cli.trainer.profiler.setup(stage="fit", local_rank=0, log_dir=str(out))
            if kind == "features":
                cli.datamodule.cache = feature_cache(cli.model, Path(cli.datamodule.features), "float16")
            with matmul_precision("medium"):
                cli.trainer.fit(cli.model, datamodule=cli.datamodule)
            spans = {key: sum(times) for key, times in profiler.recorded_durations.items()}
            waited = next(v for k, v in spans.items() if k.endswith("train_dataloader_next"))
            epoch = spans["run_training_epoch"]
            found[f"{stage}, {kind}"] = {"waited": waited, "epoch": epoch, "steps": cli.trainer.global_step}
    return found


CASES = {f.__name__: f for f in (stream, shard, memory, decodes, annotations, fit)}

if __name__ == "__main__":
    print(json.dumps(CASES[sys.argv[1]](json.loads(sys.argv[2]))))
