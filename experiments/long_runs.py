"""Claim: a long run may be killed at any moment, and answers to the last byte as if it had not.

    python experiments/long_runs.py            # about two minutes; --ray adds a cluster (extra ray)

Asks `circuits ablate` of a file of 20,000 words: once undisturbed; once killed three times with
SIGKILL and resumed; on a Ray cluster of this machine's cores, of which a worker is killed. Prints
what it does, the SHA-256 of each answer, and the most memory that a run of 20,000 and one of
200,000 prompts take. It looks for Ray's workers in /proc, so that part is for Linux.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from itertools import product
from pathlib import Path

QUESTION = "ablate --model sort-abc --all-heads --method mean --quiet --json".split()
N, N_LONG = 20_000, 200_000
KILLED_AT = (3, 11, 25)  # parts, of 40
WORKER = b"ray::Worker"


def write_words(path: Path, n: int) -> Path:
    """`n` words of six letters, again and again, each with its first letter in order."""
    words = ["".join(letters) for letters in product("ABC", repeat=6)]
    with path.open("w") as file:
        file.write("clean,answer,distractor\n")
        for i in range(n):
            word = words[i % len(words)]
            file.write(f"{word},{min(word)},{'B' if min(word) == 'A' else 'A'}\n")
    return path


def start(*options: str | Path) -> subprocess.Popen[bytes]:
    """`circuits ablate` with these options, told as one would type it."""
    told = shlex.join(["circuits", *QUESTION, *(Path(str(o)).name for o in options)])
    print(f"$ {told}", flush=True)
    command = [sys.executable, "-m", "circuits", *QUESTION, *map(str, options)]
    # A cluster has a worker for each core if each of them has one thread.
    settings = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, env=settings)


def finish(process: subprocess.Popen[bytes]) -> tuple[str, float]:
    """The SHA-256 of the answer, and the most memory the process had, in MB."""
    assert process.stdout is not None
    began = time.monotonic()
    answer = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"it ended with {process.returncode}")
    digest = hashlib.sha256(answer).hexdigest()
    peak = used.ru_maxrss / 1024
    took = time.monotonic() - began
    print(f"answer {digest[:16]} · {took:.0f} s · {peak:.0f} MB at most\n", flush=True)
    return digest, peak


def n_parts(folder: Path) -> int:
    return len(list(folder.glob("part-*.parquet")))


def wait_for(folder: Path, n: int, process: subprocess.Popen[bytes]) -> None:
    """Until there are `n` parts, or the process has ended."""
    while n_parts(folder) < n and process.poll() is None:
        time.sleep(0.002)


def killed_and_resumed(words: Path, folder: Path) -> str:
    """The answer of a run that is killed at `KILLED_AT`."""
    options: list[str | Path] = ["--file", words, "--parts", folder]
    for n in KILLED_AT:
        process = start(*options)
        wait_for(folder, n, process)
        process.kill()
        process.wait()
        print(f"kill -9: exit {process.returncode}, {n_parts(folder)} parts are there\n")
        options = ["--file", words, "--parts", folder, "--resume"]
    return finish(start(*options))[0]


def workers() -> list[int]:
    """The processes of Ray's workers."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes().startswith(WORKER):
                found.append(int(path.parent.name))
        except OSError:  # it has ended meanwhile
            continue
    return sorted(found)


def on_ray(words: Path, folder: Path) -> str:
    """The answer of a cluster that loses a worker."""
    others = set(workers())
    process = start("--file", words, "--parts", folder, "--engine", "ray=local")
    wait_for(folder, KILLED_AT[1], process)
    own = [pid for pid in workers() if pid not in others]
    os.kill(own[0], signal.SIGKILL)
    print(f"{len(own)} workers; kill -9 of one, at part {n_parts(folder)}")
    return finish(process)[0]


def main() -> None:
    """The whole story."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--ray", action="store_true", help="also on a Ray cluster of this machine")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        room = Path(folder)
        words = write_words(room / "words.csv", N)
        expected, peak = finish(start("--file", words, "--parts", room / "undisturbed"))
        answers = {"killed three times": killed_and_resumed(words, room / "killed")}
        if asked.ray:
            answers["on Ray, a worker killed"] = on_ray(words, room / "ray")
        many = write_words(room / "many.csv", N_LONG)
        _, peak_of_many = finish(start("--file", many))
    for what, answer in answers.items():
        print(f"{what}: {'the same answer' if answer == expected else 'ANOTHER ANSWER'}")
    print(f"memory: {peak:.0f} MB for {N:,} prompts, {peak_of_many:.0f} MB for {N_LONG:,}")
    if set(answers.values()) != {expected}:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
