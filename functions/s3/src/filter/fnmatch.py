"""Prints results of fnmatch for random patterns: one [pattern, text, matches] per line.

python3.11 fnmatch.py 400 7 > fnmatch.jsonl
"""

import fnmatch
import json
import random
import sys

count, seed = int(sys.argv[1]), int(sys.argv[2])
rng = random.Random(seed)
CHARS = "ab-]![^\\&~|é\n/.z"


def random_set():
    inner = "".join(rng.choice(CHARS + "--!a") for _ in range(rng.randint(0, 6)))
    return "[" + rng.choice(["", "", "!"]) + inner + rng.choice(["]", "]", "]", ""])


def random_piece():
    kind = rng.random()
    if kind < 0.35:
        return random_set()
    return rng.choice("**?") if kind < 0.65 else rng.choice(CHARS)


def random_text(pattern):
    """Returns a text similar to the pattern, so that about half of all texts match."""
    text = []
    for c in pattern if rng.random() < 0.7 else "":
        if c == "*":
            text += [rng.choice(CHARS) for _ in range(rng.randint(0, 3))]
        elif c != "!" or rng.random() < 0.5:
            text.append(rng.choice(CHARS) if c in "?[" or rng.random() < 0.1 else c)
    return "".join(text) if text else "".join(rng.choice(CHARS) for _ in range(rng.randint(0, 3)))


rows = {True: [], False: []}
while min(len(found) for found in rows.values()) < count // 2:
    pattern = "".join(random_piece() for _ in range(rng.randint(1, 4)))
    if "[" not in pattern and rng.random() < 0.8:
        continue
    text = random_text(pattern)
    matches = fnmatch.fnmatch(text, pattern)
    if len(rows[matches]) < count // 2 and [pattern, text, matches] not in rows[matches][-1000:]:
        rows[matches].append([pattern, text, matches])
for row in rows[True] + rows[False]:
    print(json.dumps(row, ensure_ascii=False))
