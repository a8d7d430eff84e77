"""One door to all formats: what it passes on, cuts off and refuses."""

import numpy as np
import pytest
from foreign_folders import CONFIGS, random_params

from gesso.export import FolderError
from gesso.export.stacks.stacks import STACKS, crop, write_stack
from gesso.models import build


def test_every_format_has_a_writer_that_leaves_an_export(tmp_path):
    config, params = CONFIGS["gpt2"], random_params(CONFIGS["gpt2"])
    for name in ("gguf", "flatbuffers", "onnx"):
        pytest.importorskip(name)
    for format in set(STACKS) - {"elmo"}:  # of its own family: test_elmo_folder.py
        written = write_stack(tmp_path / format, config, params, format=format)
        assert written.folder == tmp_path / format
        assert written.files.keys() >= {"gesso_export.json"}
        assert written.agreement.apart <= written.agreement.bound
        assert written.model_type.split()[0] == format
    # An earlier export of any kind gives way to another.
    again = write_stack(tmp_path / "gguf", config, params, format="orbax-params")
    assert "model.gguf" not in again.files
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(FolderError, match="not an earlier export"):
        write_stack(tmp_path / "mine", config, params, format="orbax-params")


def test_a_padded_vocabulary_is_cut_before_anything_else():
    config, params = CONFIGS["gpt_j"], random_params(CONFIGS["gpt_j"])
    small, kept = crop(config, params, vocab=30)
    assert small.vocab == 30
    assert kept["embed"].shape == (30, 12) and kept["head_bias"].shape == (30,)
    tokens = {"tokens": np.arange(8, dtype=np.int32)[None]}
    ours, theirs = build(config).apply(params, tokens), build(small).apply(kept, tokens)
    assert np.abs(ours["logits"][..., :30] - theirs["logits"]).max() < 1e-5
    with pytest.raises(FolderError, match="vocab 38 is more than the model's 37 rows"):
        crop(config, params, vocab=38)
    joined = CONFIGS["bert2bert"]
    with pytest.raises(FolderError, match="encoder_decoder models have no vocabulary of their own"):
        crop(joined, random_params(joined), vocab=3)


def test_requests_that_cannot_be_met_are_refused(tmp_path):
    config, params = CONFIGS["gpt2"], random_params(CONFIGS["gpt2"])
    with pytest.raises(FolderError, match="no format 'gguff'; these are: onnx, gguf"):
        write_stack(tmp_path / "a", config, params, format="gguff")
    with pytest.raises(FolderError, match="ONNX is written in float32, not float16"):
        write_stack(tmp_path / "a", config, params, format="onnx", dtype="float16")
    assert list(tmp_path.iterdir()) == []
