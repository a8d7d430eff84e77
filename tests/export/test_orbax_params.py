"""Params alone, read with nothing but orbax in another process."""

import json
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
from foreign_folders import CONFIGS, random_params, same

from gesso.export import FolderError
from gesso.export.stacks import orbax_params
from gesso.models.trees import flat

READER = """
import json, sys
import numpy as np, orbax.checkpoint as ocp
path, out = sys.argv[1:]
params = ocp.StandardCheckpointer().restore(path)
assert not {"models", "export", "pretrain"} & set(sys.modules)
def flat(tree, at=()):
    return ({at: tree} if not isinstance(tree, dict) else
            {k: v for name, each in tree.items() for k, v in flat(each, (*at, name)).items()})
np.savez(out, **{"/".join(at): np.asarray(x) for at, x in flat(params).items()})
"""


def test_plain_orbax_reads_every_parameter(tmp_path):
    config, params = CONFIGS["gpt_j"], random_params(CONFIGS["gpt_j"])
    written = orbax_params.write(tmp_path / "out", config, params)
    assert written.agreement.apart == 0
    place = tmp_path / "read.npz"
    done = subprocess.run(
        [sys.executable, "-c", READER, tmp_path / "out" / "params", place],
        capture_output=True,
        text=True,
        timeout=200,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert same(dict(np.load(place)), flat(params))
    about = json.loads((tmp_path / "out" / "config.json").read_text())
    assert about["config"]["rotary_dims"] == config.rotary_dims
    assert about["letters"]["blocks/attention/q"] == "ZDNH"


def test_version_1_reads_it_too_in_the_dtype_asked_for(tmp_path):
    from orbax.checkpoint import v1 as ocp

    config, params = CONFIGS["gpt2"], random_params(CONFIGS["gpt2"])
    orbax_params.write(tmp_path / "out", config, params, dtype="bfloat16")
    read = flat(ocp.load(tmp_path / "out" / "params"))
    for path, x in flat(params).items():
        y = np.asarray(read[path])
        assert y.dtype == ml_dtypes.bfloat16 and (y == x.astype(ml_dtypes.bfloat16)).all()


def test_what_is_no_number_is_refused_and_nothing_left(tmp_path):
    config, params = CONFIGS["gpt2"], random_params(CONFIGS["gpt2"])
    large = params | {"embed": params["embed"] * 1e6}
    orbax_params.write(tmp_path / "wide", config, large)
    with pytest.raises(FolderError, match="embed holds NaN or infinite values in float16"):
        orbax_params.write(tmp_path / "out", config, large, dtype="float16")
    with pytest.raises(FolderError, match="not those of the config: blocks/attention/k_bias"):
        orbax_params.write(tmp_path / "out", CONFIGS["gpt_j-tied"], params)
    assert [each.name for each in tmp_path.iterdir()] == ["wide"]


def test_elmos_words_go_with_it_though_the_softmax_has_fewer_rows(tmp_path):
    from gesso.data.tokenizers.words import train
    from gesso.models import ELMoConfig

    words = train(["the hen and the fox", "a fox, a hen: the end"], classes=6, cap=8)
    assert words.vocab_size > words.classes == 6
    config = ELMoConfig(vocab=6, embed=8, cell=8, filters=((1, 4),), layers=1, head="none")
    orbax_params.write(tmp_path / "out", config, random_params(config), tokenizer=words)
    assert (tmp_path / "out" / "vocab.txt").read_text().splitlines()[3:] == ["the", "a", "fox"]
