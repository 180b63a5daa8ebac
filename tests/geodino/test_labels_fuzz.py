"""Label files of any kind: each gives the labels it holds, or one sentence that names it.

They are read in a process of their own, so that a crash inside a library would be seen as one.
"""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from label_files import KINDS, make

SCRIPT = """
import json, signal, sys, warnings
sys.path.insert(0, sys.argv[1])
from labels_testing import GRID, found
from geodino.heads.labels import read_labels
from tiles.errors import InputError

def late(*_):
    raise TimeoutError("still reading after 60 s")

signal.signal(signal.SIGALRM, late)
warnings.simplefilter("ignore")
for line in sys.stdin:
    path, options = json.loads(line)
    signal.alarm(60)
    try:
        labels = read_labels(path, GRID, **options)
        told = ["labels", sorted(found(labels)), list(labels.notes)]
    except InputError as error:
        told = ["refused", str(error)]
    except BaseException as error:
        told = ["failed", f"{type(error).__name__}: {error}"]
    signal.alarm(0)
    print("\\n" + json.dumps(told), flush=True)
"""


@pytest.mark.parametrize("count", [65, pytest.param(1000, marks=pytest.mark.slow)])
def test_every_label_file_gives_its_labels_or_one_sentence(tmp_path: Path, count: int) -> None:
    files = make(tmp_path, count, seed=19)
    asked = "".join(json.dumps([str(file.path), file.options]) + "\n" for file in files)
    script = [sys.executable, "-c", SCRIPT, str(Path(__file__).parent)]
    done = subprocess.run(script, input=asked, capture_output=True, text=True, timeout=500)
    told = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('["')]
    assert len(told) == len(files), f"{files[len(told)].path}: {done.stderr[-2000:]}"
    wrong, ends = [], Counter()
    for number, (file, (end, *said)) in enumerate(zip(files, told, strict=True)):
        kind = KINDS[number % len(KINDS)].__name__
        ends[kind.strip("_"), end] += 1
        if end == "failed":
            wrong.append(f"{kind} {file.path}: {said[0]}")
        elif end == "refused":
            sentence = said[0]
            if file.wanted is not None or file.path.name not in sentence or "\n" in sentence or "Traceback" in sentence:
                wrong.append(f"{kind} {file.path} is refused: {sentence}")
        elif file.wanted is not None and {tuple(one) for one in said[0]} != file.wanted:
            more = {tuple(one) for one in said[0]} ^ file.wanted
            wrong.append(
                f"{kind} {file.path} {file.options} labels {sorted(more)[:5]} of {len(more)} otherwise, {said[1]}"
            )
    print(dict(ends))
    assert not wrong, "\n".join(wrong)
    assert not done.stderr
