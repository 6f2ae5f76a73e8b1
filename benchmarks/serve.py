"""python -m benchmarks serve: what the page server answers in which time, with the load beside it on the same machine.

The store is made for it: sentences of made-up videos, encoded and indexed, and a few 720p clips. Open loop: requests
are sent at their times whatever became of those before, and latency counts from the time at which one was due.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import itertools
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import httpx
import numpy as np
import polars as pl

import cliploom
from benchmarks.corpus import write_clips
from benchmarks.measure import memory_mb
from benchmarks.serve_load import MARK, SWAP_S, Load, Step

SENTENCES = 5_000
ROWS_A_VIDEO = 20
SPEC = """\
version: 1
name: serving
store: ./store
sources:
  said:  {kind: narrations, format: csv, path: said.csv}
  clips: {kind: media, glob: "media/*.mp4"}
encoders:
  minilm: {kind: minilm}
  lite0: {kind: efficientnet_lite0, text_encoder: minilm}
features:
  said: {source: said, encoder: minilm}
  frames: {source: clips, sample: {every: 5s}, encoder: lite0, outputs: [semantic]}
indexes:
  said: {feature: said}
"""


def words() -> list[str]:
    """Return the sentences of a small grammar, in one order for all."""
    who = ["a man", "a woman", "a child", "a cook", "a dog", "two friends", "a farmer", "a nurse", "a cat", "a sailor"]
    does = ["opens", "washes", "cuts", "carries", "drops", "paints", "looks at", "lifts", "mends", "throws"]
    what = ["a box", "an apple", "a cup", "the door", "a rope", "a book", "a boat", "some bread", "a bicycle", "a lamp"]
    where = ["in the kitchen", "at night", "on a beach", "in the rain", "at the market", "in a garden", "on a roof"]
    made = [" ".join(each) for each in itertools.product(who, does, what, where)]
    random.Random(0).shuffle(made)
    return made


def make_store(folder: Path, rows: int, clips: int) -> Path:
    """Write the sentences and clips and run the pipeline over them."""
    sentences = words()[:SENTENCES]
    with (folder / "said.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["uid", "text", "start_s", "end_s"])
        for row in range(rows):
            at = row % ROWS_A_VIDEO
            writer.writerow([f"v{row // ROWS_A_VIDEO:06d}", sentences[row * 7919 % len(sentences)], 5 * at, 5 * at + 5])
    write_clips(folder / "media", clips, (1280, 720))
    (folder / "cliploom.yaml").write_text(SPEC, encoding="utf-8")
    subprocess.run([sys.executable, "-m", "cliploom", "run", str(folder / "cliploom.yaml")], check=True)
    return folder / "store"


def add_sentences(folder: Path, videos: int, number: int) -> None:
    """Append made-up videos to the source, none of which was there before, for a night that has something to do."""
    with (folder / "said.csv").open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        for row in range(videos * ROWS_A_VIDEO):
            uid, at = f"added-{number}-{row // ROWS_A_VIDEO:06d}", row % ROWS_A_VIDEO
            writer.writerow([uid, f"number {number + row} was added", 5 * at, 5 * at + 5])


async def open_loop(rate: float, seconds: float, ask: Callable[[int], Awaitable[None]]) -> tuple[list[float], int]:
    """Send requests at their times; returns latencies in milliseconds and how many failed."""
    taken: list[float] = []
    failed = 0
    begun = time.perf_counter()

    async def one(number: int) -> None:
        nonlocal failed
        due = begun + number / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        try:
            await ask(number)
            taken.append(1000 * (time.perf_counter() - due))
        except (httpx.HTTPError, AssertionError):
            failed += 1

    await asyncio.gather(*(one(number) for number in range(int(rate * seconds))))
    return taken, failed


def line(name: str, taken: Sequence[float], more: str = "") -> str:
    """Return one row of the table."""
    if not taken:
        return f"{name:<28} no answer {more}"
    p50, p99 = np.percentile(taken, [50, 99])
    return f"{name:<28} p50 {p50:8.1f} ms  p99 {p99:8.1f} ms  {len(taken):>6} answers  {more}"


async def measure(url: str, folder: Path, rate: float, seconds: float, clips: int) -> None:
    """Ask for everything, one kind after the other, and for words once more beside a night that runs."""
    asked = words()[SENTENCES:]
    async with httpx.AsyncClient(base_url=url, timeout=60, limits=httpx.Limits(max_connections=200)) as client:
        model: list[float] = []

        async def by_text(number: int) -> None:
            answer = await client.get("/api/search", params={"q": asked[number % len(asked)], "index": "said"})
            assert answer.status_code == 200, answer.text
            model.append(answer.json()["model_ms"])

        await by_text(0)
        taken, failed = await open_loop(rate, seconds, by_text)
        share = f"of it the model p50 {np.median(model):.1f} ms; {failed} failed"
        print(line(f"words, {rate:g}/s open loop", taken, share))
        add_sentences(folder, 40 * int(seconds), len(model))
        night = ["chrt", "--idle", "0", sys.executable, "-m", "cliploom", "run", str(folder / "cliploom.yaml")]
        with subprocess.Popen(night, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as beside:
            taken, failed = await open_loop(rate, seconds, by_text)
            ended = beside.poll() is not None
        print(line("  beside a run (chrt --idle)", taken, f"{failed} failed" + "; the run ended before" * ended))

        rng = np.random.default_rng(0)
        vectors = rng.normal(size=(64, 384)).round(4).tolist()
        count, begun = 0, time.perf_counter()

        async def by_vector() -> None:
            nonlocal count
            while time.perf_counter() - begun < seconds / 2:
                body = {"vector": vectors[count % 64], "index": ["said"], "top": 10}
                answer = await client.post("/api/search", json=body)
                assert answer.status_code == 200, answer.text
                count += 1

        await asyncio.gather(*(by_vector() for _ in range(4)))
        print(f"{'vectors, closed loop of 4':<28} {count / (time.perf_counter() - begun):.0f} requests/s")
        for name in ("cold", "cached"):
            taken = []
            for number in range(40 * clips):
                at = round(10 * number / (40 * clips), 3)
                sent = time.perf_counter()
                answer = await client.get(f"/api/thumbnail/clip-{number % clips:05d}", params={"at": at, "width": 320})
                assert answer.status_code == 200, answer.text
                taken.append(1000 * (time.perf_counter() - sent))
            print(line(f"thumbnails of 720p, {name}", taken))


def nights(folder: Path) -> list[Step]:
    """Three nights that each add a video and a sentence, a rollback to the first release, and a vacuum."""
    store = folder / "store"
    first = cliploom.open(store).release.release
    seen: list[str] = []

    def run(*arguments: str) -> None:
        command = [sys.executable, "-m", "cliploom", *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def night(uid: str) -> Callable[[], None]:
        def act() -> None:
            with (folder / "said.csv").open("a", newline="", encoding="utf-8") as file:
                csv.writer(file).writerow([uid, MARK, 0, 5])
            run("run", str(folder / "cliploom.yaml"))

        return act

    before = known_nights(folder)
    steps = []
    for number in range(len(before) + 1, len(before) + 4):
        seen.append(f"night-{number}")
        steps.append(Step(f"night {number}", night(seen[-1]), before | frozenset(seen)))
    steps.append(Step("rollback", lambda: run("rollback", str(store), str(first)), before))
    steps.append(Step("vacuum", lambda: run("vacuum", str(store), "--older-than", "0s", "--keep-releases", "1")))
    return steps


def known_nights(folder: Path) -> frozenset[str]:
    """Return the items of nights that the newest release has, from an earlier load on the same folder."""
    items = cliploom.open(folder / "store").items
    return frozenset(items.filter(pl.col("uid").str.starts_with("night-")).collect()["uid"].to_list())


def measure_load(url: str, folder: Path, rate: float, seconds: float) -> bool:
    """Publish nights under load and print what became of the requests; returns whether all was well."""
    paths = [f"/api/search?q={sentence.replace(' ', '+')}" for sentence in words()[SENTENCES : SENTENCES + 40]]
    paths += ["/api/thumbnail/clip-00000?at=2", "/api/items/v000007", "/api/curve/v000007?q=a+dog", "/api/failures"]
    paths += ["/", "/store", "/api/releases", "/item/v000003?q=a+dog", "/api/search?like=v000001&index=said"]
    found = Load(url, folder / "store", paths, nights(folder), known_nights(folder)).run(rate, seconds)
    print(line(f"load, {rate:g}/s open loop", found.taken, f"{len(found.problems)} wrong or failed"))
    for name, took in found.steps.items():
        swap = f"; answers from it after {found.swaps[name]:.1f} s" if name in found.swaps else ""
        print(f"  {name:<26} took {took:.1f} s{swap}")
    print(f"  answers by release         {dict(sorted(found.releases.items()))}; {found.late} later than {SWAP_S:g} s")
    for problem in found.problems[:10]:
        print(f"  {problem}")
    return not found.problems and not found.late


def main(argv: list[str]) -> int:
    """Make the store, start the server, ask, print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks serve")
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--rate", type=float, default=50.0)
    parser.add_argument("--seconds", type=float, default=60.0, help="of each open loop; 0 leaves this part out")
    parser.add_argument("--clips", type=int, default=3)
    parser.add_argument("--load-rate", type=float, default=100.0)
    parser.add_argument("--load-seconds", type=float, default=120.0, help="0 leaves this part out")
    parser.add_argument("--folder", type=Path, help="where the store is made, or was made before; by default for once")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="cliploom-serve-") as name:
        folder = options.folder or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        store = folder / "store"
        if not store.exists():
            make_store(folder, options.rows, options.clips)
        index = sum(path.stat().st_size for path in (store / "index").rglob("*") if path.is_file()) / 1e6
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        url = f"http://127.0.0.1:{port}"
        begun = time.perf_counter()
        command = [sys.executable, "-m", "cliploom", "serve", str(store), "--port", str(port)]
        well = True
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as server:
            try:
                first(url, server)
                print(f"start to first answer        {time.perf_counter() - begun:.1f} s")
                if options.seconds:
                    asyncio.run(measure(url, folder, options.rate, options.seconds, options.clips))
                used = memory_mb("VmRSS", server.pid)
                print(f"memory                       {used:.0f} MB, the index's files {index:.0f} MB")
                if options.load_seconds:
                    well = measure_load(url, folder, options.load_rate, options.load_seconds)
                    print(f"memory afterwards            {memory_mb('VmRSS', server.pid):.0f} MB")
            finally:
                server.terminate()
    return 0 if well else 1


def first(url: str, server: subprocess.Popen[bytes]) -> None:
    """Wait for the first answer to a search."""
    while server.poll() is None:
        try:
            if httpx.get(f"{url}/api/search", params={"q": "a dog"}, timeout=30).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.02)
    raise SystemExit("the server ended")
