"""Denoising: both sides together are the text, whatever is packed in a row."""

import itertools
import zlib

import numpy as np
import pytest
from two_sided_rows import EOS, MODE, documents, made, packed, pieces

from gesso.objectives.config import DenoiseConfig
from gesso.objectives.denoise_spans import noise_of, span_counts

SPANS = [
    DenoiseConfig(),
    DenoiseConfig(mode=MODE, mean_span=8.0),
    DenoiseConfig(noise_density=0.5, sentinels=150),
    DenoiseConfig(noise_density=0.5, mean_span=1.0, sentinels=255),
    DenoiseConfig(noise_density=0.25, mean_span=0.25, mode=MODE),
    DenoiseConfig(noise_density=0.9, mean_span=2.0, sentinels=80, first_sentinel=400),
]
SPLIT = [
    DenoiseConfig(form="prefix", noise_density=0.5),
    DenoiseConfig(form="prefix", noise_density=0.25, mode=MODE),
    DenoiseConfig(form="causal"),
    DenoiseConfig(form="causal", mode=MODE),
]


def restored(config, source, target):
    """The piece that a source and a target are made of."""
    source, target = source.tolist(), target.tolist()
    if config.form != "spans":
        alone = config.form == "causal" or source == [EOS]
        if config.mode >= 0 or alone:
            assert source.pop(0) == (config.mode if config.mode >= 0 else EOS)
        return source + target
    if config.mode >= 0:
        assert source.pop(0) == config.mode
    assert target.pop() == EOS
    top = config.first_sentinel if config.first_sentinel >= 0 else 511
    sentinels = range(top, top - config.sentinels, -1)
    noise, order = {}, []
    for token in target:
        if token in sentinels:
            order.append(token)
            noise[token] = []
        else:
            noise[order[-1]].append(token)
    assert order == list(sentinels[: len(order)])
    assert order == [token for token in source if token in sentinels]
    assert all(noise.values()), "every sentinel stands for something"
    return list(itertools.chain.from_iterable(noise.get(token, [token]) for token in source))


@pytest.mark.parametrize("config", SPANS + SPLIT)
def test_source_and_target_restore_every_piece(config):
    objective = made(config)
    rows = packed(documents(), objective, length=96)
    batch = objective.host_batch(rows)
    sources = pieces(batch["source"], batch["source_segments"])
    targets = pieces(batch["targets"], batch["segments"])
    texts = pieces(rows["tokens"], rows["segments"])
    for source_row, target_row, text_row in zip(sources, targets, texts, strict=True):
        assert len(source_row) == len(target_row) == len(text_row)
        for source, target, text in zip(source_row, target_row, text_row, strict=True):
            assert len(source) and len(target)
            assert restored(config, source, target) == text.tolist()
    assert (batch["lm_weight"] == (batch["segments"] > 0)).all()
    assert max(batch["source"].shape[1], batch["tokens"].shape[1]) == 96


@pytest.mark.parametrize("config", [SPANS[1], SPLIT[0]])
def test_the_decoder_reads_the_start_then_its_targets(config):
    objective = made(config, start=7)
    batch = objective.host_batch(packed(documents(), objective, length=96))
    inputs = pieces(batch["tokens"], batch["segments"])
    targets = pieces(batch["targets"], batch["segments"])
    for read, written in zip(itertools.chain(*inputs), itertools.chain(*targets), strict=True):
        assert read.tolist() == [7, *written[:-1]]
    for side in ("", "source_"):
        for row, mine in zip(batch[f"{side}positions"], batch[f"{side}segments"], strict=True):
            for k in range(1, mine.max() + 1):
                assert row[mine == k].tolist() == list(range((mine == k).sum()))
            assert not row[mine == 0].any()


@pytest.mark.parametrize("config", SPANS + SPLIT)
def test_full_rows_of_pieces_of_any_one_length_fit(config):
    objective = made(config)
    row_length = objective.row_length(64)
    most = row_length - objective.overhead
    segments = np.zeros((2 * most, row_length), np.int32)
    tokens = np.full((2 * most, row_length), 65, np.int32)
    for row in range(2 * most):
        n = row // 2 + 1
        for k in range(row_length // (n + objective.overhead)):
            segments[row, k * n : (k + 1) * n] = k + 1
            if row % 2:
                tokens[row, (k + 1) * n - 1] = EOS
    rows = {"tokens": tokens * (segments > 0), "segments": segments}
    batch = objective.host_batch(
        rows | {"component": np.zeros(2 * most, np.int32), "row": np.arange(2 * most)}
    )
    for side in ("segments", "source_segments"):
        assert (batch[side].max(axis=1) == segments.max(axis=1)).all(), "no piece is lost"


def test_the_sizes_are_near_those_of_t5():
    # t5.data.preprocessors.random_spans_helper: 568 tokens become 512 and 114.
    objective = made(DenoiseConfig())
    row_length = objective.row_length(512)
    assert row_length == 569
    assert objective.room.sizes(row_length) == (512, 128)
    for length in range(16, 200):
        sizes = objective.room.sizes(objective.row_length(length))
        assert max(sizes) == length
        assert all(min(sizes) % n == 0 for n in (2, 4, 8) if length % n == 0), "over a mesh"


def test_noise_is_as_dense_and_as_long_as_asked():
    for n, density, mean in ((512, 0.15, 3.0), (512, 0.5, 8.0), (100, 0.15, 3.0)):
        spans = span_counts(np.array([n]), noise_density=density, mean_span=mean)
        assert spans.noise[0] == round(n * density)
        assert spans.count[0] == round(round(n * density) / mean)
    share = span_counts(np.array([64, 400]), noise_density=0.25, mean_span=0.25)
    assert share.noise.tolist() == [16, 100] and share.count.tolist() == [1, 1]
    tiny = span_counts(np.arange(4), noise_density=0.15, mean_span=3.0)
    assert tiny.noise.tolist() == [0, 1, 1, 1] and tiny.count.tolist() == [0, 1, 1, 1]


def test_all_partitions_are_equally_likely():
    tokens = np.full(20_000, 10)
    spans = span_counts(tokens, noise_density=0.6, mean_span=2.0)
    keys = np.random.default_rng(0).integers(0, 1 << 63, len(tokens)).astype(np.uint64)
    kept, noise = noise_of(tokens, spans, keys)
    for lengths, total in ((noise.reshape(-1, 3), 6), (kept.reshape(-1, 3), 4)):
        assert (lengths.sum(axis=1) == total).all() and lengths.min() == 1
        _, counts = np.unique(lengths, axis=0, return_counts=True)
        expected = {6: 10, 4: 3}[total]
        assert len(counts) == expected
        # Standard deviation of a count: sqrt(20000 p (1 - p)), at most 67.
        assert np.abs(counts - 20_000 / expected).max() < 5 * 67


def test_a_row_depends_on_its_number_and_the_seed_alone():
    objective = made(DenoiseConfig())
    rows = packed(documents(mean=300.0), objective, length=96, first_row=1 << 40)
    batch = objective.host_batch(rows)
    for row in (0, 3):
        alone = objective.host_batch({k: v[row : row + 1] for k, v in rows.items()})
        for leaf, value in alone.items():
            assert (value[0] == batch[leaf][row]).all(), leaf
    for other in (
        made(DenoiseConfig(seed=1)).host_batch(rows),
        objective.host_batch(rows | {"row": rows["row"] + 1}),
    ):
        assert (other["source"] != batch["source"]).any(axis=1).mean() > 0.9


def test_corruption_is_the_same_for_ever():
    # A changed value changes what every run continued from a checkpoint reads: it is a new kind.
    objective = made(DenoiseConfig())
    batch = objective.host_batch(packed(documents(), objective, length=96))
    found = zlib.crc32(batch["targets"].astype("<i4").tobytes())
    assert found == 3808114037, "the corruption of rows changed"


def test_prefixes_split_anywhere_and_as_asked_on_average():
    ones = np.ones((4000, 64), np.int32)
    rows = {"tokens": 65 * ones, "segments": ones, "component": ones[:, 0]}
    for density in (0.5, 0.25):
        objective = made(DenoiseConfig(form="prefix", noise_density=density))
        batch = objective.host_batch(rows | {"row": np.arange(4000)})
        written = batch["lm_weight"].sum(axis=1)
        assert written.min() == 1 and written.max() == round(2 * density * 64) - 1
        # A uniform distribution's deviation is its width / sqrt(12); of a mean, / sqrt(4000).
        assert abs(written.mean() - density * 64) < 5 * 2 * density * 64 / (12 * 4000) ** 0.5


def test_padding_rows_are_padding():
    objective = made(DenoiseConfig())
    rows = packed(documents(), objective, length=96)
    batch = objective.host_batch({name: np.zeros_like(leaf) for name, leaf in rows.items()})
    assert not any(leaf.any() for leaf in batch.values())


@pytest.mark.parametrize(
    ("config", "model", "message"),
    [
        (DenoiseConfig(), {"vocab": 356}, r"tokenizer, which has 257; set --model.vocab 357"),
        (DenoiseConfig(first_sentinel=512), {}, "outside the model's vocab of 512"),
        (DenoiseConfig(mode=450), {}, "mode 450 is a sentinel"),
        (DenoiseConfig(mode=65), {}, "mode 65 stands for text"),
        (DenoiseConfig(mode=512), {}, "mode 512 is outside"),
        (DenoiseConfig(start=511), {}, "start id 511 is a sentinel"),
        (DenoiseConfig(), {"start": -1}, "set --objective.start"),
        (
            DenoiseConfig(),
            {"family": "gpt", "architecture": "decoder"},
            "not a model of family gpt",
        ),
        (DenoiseConfig(noise_density=1.0), {}, "noise_density is a share"),
        (DenoiseConfig(mean_span=0.0), {}, "mean_span must be positive"),
        (DenoiseConfig(sentinels=0), {}, "sentinels must be 1 or more"),
    ],
)
def test_what_cannot_be_is_said(config, model, message):
    with pytest.raises(ValueError, match=message):
        made(config, **model)


def test_too_few_sentinels_are_said_before_any_row_is_made():
    with pytest.raises(ValueError, match="up to 28 spans.*--objective.sentinels 28"):
        made(DenoiseConfig(sentinels=27)).row_length(512)
