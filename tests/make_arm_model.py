"""Write docs/_arm_model.md: cycles per element of the inner loops by LLVM's models of processors; nothing is timed.

Run ``python tests/make_arm_model.py [llvm-mca]``, with an llvm-mca of LLVM 18 or newer, which knows Neoverse V2. A loop
is the shortest way around, without what seldom happens: ties of the mask law, prefetching, ends of arrays. A model
takes every load from the first-level cache, and no branch to go another way.
"""

from __future__ import annotations

import heapq
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "docs" / "_arm_model.md"
MACHINE_CODE = runpy.run_path(str(ROOT / "tests" / "machine_code.py"))

PROCESSORS = {"neoverse-v2": "Neoverse V2", "apple-m1": "Apple M1", "znver3": "Zen 3", "znver4": "Zen 4"}
REPEATED = 200
STREAM, WIDENED, NARROWED = r"stnp|vmovnt", r"fcvtl|vcvtps2pd", r"fcvtn|vcvtpd2ps"
MULTIPLIED = r"fmul|vmulps"
BYTES = {"z": 64, "y": 32, "x": 16, "q": 32}  # that a streaming store writes from such registers; stnp has two
LANES = {"z": 8, "y": 4}  # of float64 that one conversion takes; else two

Blocks = list[list[str]]


class Loop(NamedTuple):
    """An inner loop: kernel and dtype, elements of a turn, instructions that take them all, and those it has not.

    Two inputs are twice as many conversions.
    """

    kernel: str
    dtype: str
    n: int
    has: str
    lacks: str = "$^"
    inputs: int = 1


LOOPS = {
    "dropout": Loop("drawn_masks.dropout", "float32", 256, MULTIPLIED),
    "batch norm, sums": Loop("planes.batch_norm", "float32", 32, WIDENED, f"{STREAM}|{NARROWED}"),
    "batch norm, result": Loop("planes.batch_norm", "float32", 64, NARROWED, STREAM),
    "batch norm, result, streamed": Loop("planes.batch_norm", "float32", 64, STREAM),
    "batch norm backward, sums": Loop("planes.backward", "float32", 32, WIDENED, f"{STREAM}|{NARROWED}", 2),
    "batch norm backward, result, streamed": Loop("planes.backward", "float32", 32, STREAM),
    "batch norm of float16, result, streamed": Loop("planes.normalize", "float16", 64, STREAM),
}


def elements(text: str, loop: Loop) -> int:
    """Elements that the instructions of a turn take."""
    found = re.findall(rf"^\t(?:{loop.has})\w*\t(.*)", text, re.MULTILINE)
    if loop.has == STREAM:
        n_bytes = sum(BYTES[re.search(r"[xyzq](?=\d|mm\d)", line)[0]] for line in found)
        return n_bytes // (2 if loop.dtype == "float16" else 4)
    widest = [next((letter for letter in "zy" if f"{letter}mm" in line), "") for line in found]
    return sum(LANES.get(letter, 2) for letter in widest) * (2 if loop.has == MULTIPLIED else 1)


def blocks_of(code: str) -> tuple[Blocks, list[list[int]]]:
    """Basic blocks of the first function, as lines of assembly, and to which others each may go."""
    function = re.split(r"^(?=_ZN)", code, flags=re.MULTILINE)[1]
    pieces = re.split(r"^(\.LBB\w+):", function, flags=re.MULTILINE)
    labels = {label: k + 1 for k, label in enumerate(pieces[1::2])}
    lines = [
        [line.split("//")[0].split("##")[0].rstrip() for line in piece.splitlines() if re.match(r"\t[a-z]", line)]
        for piece in pieces[::2]
    ]
    blocks, nexts, first = Blocks(), list[list[str | int]](), list[int]()
    for piece in lines:  # a conditional branch ends a block, too
        first.append(len(blocks))
        blocks.append([])
        nexts.append([])
        for line in piece:
            blocks[-1].append(line)
            if target := re.match(r"\t(?:j\w+|b|b\.\w+|cbn?z|tbn?z)\t.*?(\.LBB\w+)$", line):
                nexts[-1].append(target[1])
                if re.match(r"\t(jmp|b)\t", line):
                    break
                nexts[-1].append(len(blocks))
                blocks.append([])
                nexts.append([])
            elif re.match(r"\t(retq?|br|jmpq)\b", line):
                break
        else:
            nexts[-1].append(len(blocks))
    ways = [[first[labels[to]] if isinstance(to, str) else to for to in tos] for tos in nexts]
    return blocks, [[to for to in tos if to < len(blocks)] for tos in ways]


def way_around(blocks: Blocks, ways: list[list[int]], start: int) -> list[int]:
    """The blocks of the shortest way from one back to itself, by instructions; none if there is none."""
    queue, seen = [(0, start, [start])], set[int]()
    while queue:
        length, block, path = heapq.heappop(queue)
        for to in ways[block]:
            if to == start:
                return path
            if to not in seen:
                seen.add(to)
                heapq.heappush(queue, (length + len(blocks[to]), to, [*path, to]))
    return []


def turn(code: str, loop: Loop) -> list[str]:
    """The instructions of the shortest turn that takes as many elements as the loop does."""
    blocks, ways = blocks_of(code)
    turns = []
    for block, lines in enumerate(blocks):
        if re.search(rf"\t({loop.has})", "\n".join(lines)):
            instructions = [line for k in way_around(blocks, ways, block) for line in blocks[k]]
            text = "\n".join(instructions)
            fits = elements(text, loop) == loop.n * loop.inputs
            if fits and not re.search(rf"{loop.lacks}|\t(callq?|bl)\t", text):
                turns.append(instructions)
    return min(turns, key=len)


def cycles(mca: str, processor: str, instructions: list[str]) -> float:
    """Cycles of a turn in a model."""
    triple, _ = MACHINE_CODE["PROCESSORS"][processor]
    options = [f"-mtriple={triple}", f"-mcpu={processor}", f"-iterations={REPEATED}"]
    # Branches go to labels that are not there; what follows them is the next instruction.
    done = subprocess.run(
        [mca, *options], input="\n".join(instructions) + "\n", capture_output=True, text=True, check=False
    )
    total = re.search(r"^Total Cycles: +(\d+)", done.stdout, re.MULTILINE)
    if total is None:
        sys.exit(f"{mca} cannot model {processor}: {done.stderr[:500]}")
    return int(total[1]) / REPEATED


def main(mca: str = "llvm-mca") -> None:
    """Write the table."""
    head = ["loop, float32 unless it says otherwise", *PROCESSORS.values()]
    rows = [head, ["---"] * len(head)]
    codes = {
        (loop.kernel, loop.dtype, processor): MACHINE_CODE["kernel_code"](processor, loop.kernel, loop.dtype)
        for loop in LOOPS.values()
        for processor in PROCESSORS
    }
    for name, loop in LOOPS.items():
        row = [name]
        for processor in PROCESSORS:
            instructions = turn(codes[loop.kernel, loop.dtype, processor], loop)
            taken = cycles(mca, processor, instructions)
            row.append(f"{taken / loop.n:.2f} ({len(instructions) / loop.n:.1f})")
        rows.append(row)
    TABLE.write_text("".join(f"| {' | '.join(row)} |\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
