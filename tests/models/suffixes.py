"""Shape suffixes are promises, and this keeps them.

`with checked(folder): model(x)` looks at the locals of every function of that folder as it returns:
x_BLD must have three dims, and one letter one size within a call.
"""

import contextlib
import re
import sys
from pathlib import Path

SUFFIX = re.compile(r"_([A-Z][A-Z0-9]*)$")


@contextlib.contextmanager
def checked(*folders):
    wrong, seen = [], 0

    def profile(frame, event, _):
        nonlocal seen
        code = frame.f_code
        if event != "return" or not code.co_filename.startswith(tuple(map(str, folders))):
            return
        sizes = {}
        for name, value in frame.f_locals.items():
            suffix, shape = SUFFIX.search(name), getattr(value, "shape", None)
            if not suffix or shape is None:
                continue
            seen += 1
            where = f"{Path(code.co_filename).name}:{code.co_name}: {name} has shape {tuple(shape)}"
            if len(shape) != len(suffix[1]):
                wrong.append(where)
                continue
            for letter, size in zip(suffix[1], shape, strict=True):
                want = int(letter) if letter.isdigit() else sizes.setdefault(letter, size)
                if want != size:
                    wrong.append(f"{where}, but {letter} is {want} in this call")

    sys.setprofile(profile)
    try:
        yield
    finally:
        sys.setprofile(None)
    assert not wrong, "\n".join(dict.fromkeys(wrong))
    assert seen, "no suffixed array was seen: is the folder right?"
