"""Does every command still say the same? Its answers on the bundled models, kept and compared.

``python tests/answers.py DIR`` asks every question of `ASKED` with ``--json`` and keeps each answer
in DIR. ``python tests/answers.py DIR --against EARLIER`` then names the answers whose bytes differ
from those in EARLIER, and the first line that does; it ends with code 1 if there are any.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import sys
from pathlib import Path

from typer.testing import CliRunner

from circuits.cli import app

CAT = '"The cat sat on the mat. The cat sat on the"'
MARY = (
    '--prompt "When Mary and John went to the garden, John gave a letter to" '
    '--answer " Mary" --distractor " John" '
    '--corrupted "When Mary and John went to the garden, Mary gave a letter to"'
)
ASKED = f"""
ablate --layer 5 --head 3
ablate --all-heads --task ioi --effects
ablate --all-heads --task repeated --method mean
ablate --all-heads --task ioi --method position-mean -n 30
ablate --component m7 --component a5.h3 --freeze patterns --task ioi
ablate --component m0.n12 --task repeated --method noise
ablate --component a1.h0@END --task ioi --method resample
ablate --layer 5 --head 3 --prompt {CAT}
ablate --all-heads --task greater-than --metric prob_diff -n 20
ablate --all-heads --task ioi --metric accuracy -n 20
ablate --all-heads --task ioi --plan
approximate --task ioi --what head --check 5
approximate --task ioi --what mlp
attention {CAT}
attention {CAT} --component a1.h0
attribute --task ioi
attribute --task ioi --what neurons
attribute {MARY.partition(" --corrupted")[0]}
compare ioi greater-than
compare greater-than --reference ioi --show parts
composition
composition --to a1.h0 --check 8 --task repeated
diff sort-abc --model sort-abc
heads
heads -n 5 --kind induction --method mean
icl
interchange --task ioi --variable s
logit-lens {CAT}
logit-lens {CAT} --positions all
neurons m5.n290
neurons m0.n12 --show triggers
ov a1.h0
ov a1.h0 --effective
patch --task ioi
patch --task ioi --what head
patch --task ioi --what mlp --direction noise --positions roles
patch {MARY}
paths --to logits --task ioi
paths --to "a6.h3<q>" --task ioi
paths --from a0.h6 --to "a1.h0<k>" --task repeated
qk a1.h0
qk a1.h0 --effective
walkthrough CBABBC
why a5.h5 --task ioi --query END --key IO --against S1
why a1.h0 {CAT}
"""


def ask(folder: Path) -> None:
    """Keep the answer to each question in a file whose name is the question's."""
    folder.mkdir(parents=True, exist_ok=True)
    for line in ASKED.strip().splitlines():
        done = CliRunner().invoke(app, [*shlex.split(line), "--json"], prog_name="circuits")
        answer = done.stdout if done.exit_code == 0 else f"exit {done.exit_code}\n{done.output}"
        if "--plan" in line and done.exit_code == 0:
            answer = _without_time(answer)
        (folder / f"{_name(line)}.json").write_text(answer, encoding="utf-8")
        sys.stderr.write(f"{'ok  ' if done.exit_code == 0 else 'FAIL'} circuits {line}\n")


def compare(now: Path, earlier: Path) -> int:
    """How many answers differ? Each is named, with the first line that does."""
    n_different = 0
    for line in ASKED.strip().splitlines():
        before, after = (
            (folder / f"{_name(line)}.json").read_text(encoding="utf-8").splitlines()
            for folder in (earlier, now)
        )
        if before != after:
            n_different += 1
            pairs = zip([*before, ""], [*after, ""], strict=False)
            old, new = next((a, b) for a, b in pairs if a != b)
            sys.stdout.write(f"circuits {line}\n  - {old.strip()}\n  + {new.strip()}\n")
    total = len(ASKED.strip().splitlines())
    sys.stdout.write(f"{total - n_different} of {total} answers are the same, byte for byte\n")
    return n_different


def _name(line: str) -> str:
    return re.sub(r"[^\w.-]+", "_", line)[:100].strip("_")


def _without_time(answer: str) -> str:
    """A plan's seconds are measured, and its bytes with them."""
    content = json.loads(answer)
    for row in content["rows"]:
        row["value"] = row["bytes"] = None
    return json.dumps(content, indent=1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--against", type=Path)
    given = parser.parse_args()
    ask(given.folder)
    if given.against:
        sys.exit(min(compare(given.folder, given.against), 1))
