"""The published runs of the Transformer and T5, where each number is from, and both at toy size.

All read a token store of the corpus they name, tokenized as they were (`gesso corpus build`).
Rows are packed: a row holds several sentences, or pieces of text, that do not see each other, and
`length` is what the longer side of a row, source or target, has room for.
"""

from typing import Any

from gesso.data.config import DataConfig
from gesso.evaluation.config import EvaluationConfig
from gesso.models.config import Seq2SeqConfig
from gesso.objectives.config import DenoiseConfig, Seq2SeqLMConfig
from gesso.partitioning.config import MeshConfig
from gesso.pretrain.config import (
    CheckpointConfig,
    LoggingConfig,
    OptimizerConfig,
    PrecisionConfig,
    ScheduleConfig,
)
from gesso.pretrain.experiment import Experiment

_T5_DROPOUTS = ("embedding", "attention", "mlp", "residual", "final")


def _recipe(name: str, **settings: Any) -> Experiment:
    return Experiment(
        name=name,
        precision=PrecisionConfig(params="float32", compute="bfloat16"),
        mesh=MeshConfig(data=1, fsdp=-1),
        checkpoint=CheckpointConfig(every_steps=1000, keep_last=3, keep_every_steps=10_000),
        evaluation=EvaluationConfig(every_steps=1000, sample_every_steps=10_000),
        **settings,
    )


def _transformer_model(*, embed: int, heads: int, mlp: int, dropout: float) -> Seq2SeqConfig:
    """Section 3 of the paper; weights as tensor2tensor draws them (fan_avg; embeddings
    1 / sqrt(embed)), from a normal instead of a uniform distribution. Its products in attention
    have no biases."""
    return Seq2SeqConfig(
        vocab=37000,
        encoder_layers=6,
        decoder_layers=6,
        embed=embed,
        heads=heads,
        head_dim=64,
        mlp=mlp,
        norm="post",
        biases=("mlp",),
        embedding_dropout=dropout,
        residual_dropout=dropout,
        init="fan_average",
        embed_std=embed**-0.5,
    )


def _transformer(name: str, model: Seq2SeqConfig, *, steps: int) -> Experiment:
    # Section 5.3: rate = embed^-0.5 min(step^-0.5, step 4000^-1.5), whose peak is at step 4000.
    return _recipe(
        name,
        model=model,
        objective=Seq2SeqLMConfig(label_smoothing=0.1, chunk_tokens=48 * 128),
        data=DataConfig(store="stores/wmt14-en-de"),
        optimizer=OptimizerConfig(
            learning_rate=(model.embed * 4000) ** -0.5,
            schedule=ScheduleConfig(kind="inverse_sqrt", warmup_steps=4000),
            b1=0.9,
            b2=0.98,
            epsilon=1e-9,
        ),
        steps=steps,
        batch=48,
        length=512,
    )


def transformer_base() -> Experiment:
    """The Transformer's base model, 6 + 6 layers of 512, post-norm, one table in three places.

        gesso corpus build wmt14.en-de.txt --folder stores/wmt14-en-de --tokenizer TOKENIZER
        gesso pretrain transformer-base --data.store stores/wmt14-en-de

    Vaswani et al. 2017 (https://arxiv.org/abs/1706.03762): table 3 (base), section 5: a shared
    vocabulary of 37,000, about 25,000 source and 25,000 target tokens per update (here 48 rows of
    512 on each side at most), Adam with betas 0.9 and 0.98 and epsilon 1e-9, 4,000 updates of
    warmup to 7.0e-4, then 1 / sqrt(step), dropout 0.1, label smoothing 0.1, 100,000 updates. A
    document is a sentence, a tab, and its translation; the tab must be one id of the tokenizer.
    `gesso generate RUN --prompt "..." --beams 4 --length-penalty 0.6` decodes as they did.

    Hardware: 8 P100 for 12 hours as published; 27.3 BLEU on newstest2014 en-de there.
    """
    model = _transformer_model(embed=512, heads=8, mlp=2048, dropout=0.1)
    return _transformer("transformer-base", model, steps=100_000)


def transformer_big() -> Experiment:
    """The Transformer's big model, 6 + 6 layers of 1024, dropout 0.3, 300,000 updates.

        gesso pretrain transformer-big --data.store stores/wmt14-en-de

    Vaswani et al. 2017 (https://arxiv.org/abs/1706.03762): table 3 (big) and section 5, otherwise
    as transformer-base; the peak rate is 4.9e-4. For en-fr they took dropout 0.1 and 32,000 pieces.

    Hardware: 8 P100 for 3.5 days as published; 28.4 BLEU on newstest2014 en-de there.
    """
    model = _transformer_model(embed=1024, heads=16, mlp=4096, dropout=0.3)
    return _transformer("transformer-big", model, steps=300_000)


def _t5_model(*, layers: int, dropout: float, **fields: Any) -> Seq2SeqConfig:
    """What all T5 share: 32,100 ids in 32,128 rows, the last 100 of them sentinels."""
    common: dict[str, Any] = {"vocab": 32128, "head_dim": 64}
    common |= {"head": "tied", "head_scale": "rsqrt_embed"}
    common |= {f"{name}_dropout": dropout for name in _T5_DROPOUTS}
    return Seq2SeqConfig(
        **(common | fields),
        encoder_layers=layers,
        decoder_layers=layers,
        position_encoding="relative",
        relative_buckets=32,
        relative_distance=128,
        embedding_scale="none",
        norm_kind="rms",
        attention_scale="none",
        embed_std=1.0,
    )


def _t5(name: str, model: Seq2SeqConfig) -> Experiment:
    """Span corruption as in section 3.1.4, trained as in section 3.7: a million updates of 2,048
    rows of 512; Adafactor at 0.01 for 10,000 updates, then 1 / sqrt(step)."""
    return _recipe(
        name,
        model=model,
        objective=DenoiseConfig(first_sentinel=32099, chunk_tokens=2048 * 32),
        data=DataConfig(store="stores/c4-t5"),
        optimizer=OptimizerConfig(
            name="adafactor",
            learning_rate=0.01,
            schedule=ScheduleConfig(kind="inverse_sqrt_held", warmup_steps=10_000),
        ),
        steps=1_000_000,
        batch=2048,
        length=512,
    )


def t5_small() -> Experiment:
    """T5 small, 61M parameters, 6 + 6 layers of 512, span corruption on rows of 512.

        gesso pretrain t5-small --data.store stores/c4-t5

    Raffel et al. 2020 (https://arxiv.org/abs/1910.10683), sections 3.1 and 3.7: a million updates
    of 2,048 rows, Adafactor at 1 / sqrt(max(step, 10^4)), dropout 0.1, 15 % of the tokens in spans
    of 3. Their final models also saw the supervised tasks; this is the unsupervised part of it.
    Tokenizer: sentencepiece of 32,000; ids 32,000 to 32,099 are the sentinels.

    Hardware: v5e-16; published: TPU v3 slices.
    """
    return _t5("t5-small", _t5_model(layers=6, embed=512, heads=8, mlp=2048, dropout=0.1))


def t5_base() -> Experiment:
    """T5 base, 223M parameters, 12 + 12 layers of 768. Numbers and source as t5-small.

    gesso pretrain t5-base --data.store stores/c4-t5
    """
    return _t5("t5-base", _t5_model(layers=12, embed=768, heads=12, mlp=3072, dropout=0.1))


def t5_large() -> Experiment:
    """T5 large, 738M parameters, 24 + 24 layers of 1024. Numbers and source as t5-small.

    gesso pretrain t5-large --data.store stores/c4-t5
    """
    shape: dict[str, Any] = {"layers": 24, "embed": 1024, "heads": 16, "mlp": 4096}
    return _t5("t5-large", _t5_model(**shape, dropout=0.1, remat="save_qkv_attention_mlp"))


def t5_3b() -> Experiment:
    """T5 3B, 2.9G parameters: 24 + 24 layers of 1024 with 32 heads of 128 and an mlp of 16,384
    (https://arxiv.org/abs/1910.10683, section 3.7). Other numbers as t5-small.

        gesso pretrain t5-3b --data.store stores/c4-t5 --mesh.fsdp 64
    """
    shape: dict[str, Any] = {"layers": 24, "embed": 1024, "heads": 32, "mlp": 16384}
    return _t5("t5-3b", _t5_model(**shape, head_dim=128, dropout=0.1, remat="full"))


def t5_11b() -> Experiment:
    """T5 11B, 11.3G parameters: 24 + 24 layers of 1024 with 128 heads of 128 and an mlp of 65,536
    (https://arxiv.org/abs/1910.10683, section 3.7). Other numbers as t5-small.

        gesso pretrain t5-11b --data.store stores/c4-t5 --mesh.fsdp 256
        (or --layout fsdp_tensor --mesh.tensor 8: its width is in heads and mlp, not in embed)
    """
    shape: dict[str, Any] = {"layers": 24, "embed": 1024, "heads": 128, "mlp": 65536}
    return _t5("t5-11b", _t5_model(**shape, head_dim=128, dropout=0.1, remat="full"))


def _t5_v1_1(name: str, **shape: Any) -> Experiment:
    """T5 1.1: a gated mlp with GELU (tanh), a head of its own that is not scaled, no dropout before
    fine-tuning (https://arxiv.org/abs/2002.05202; google-research/text-to-text-transfer-transformer
    released_checkpoints.md)."""
    gated: dict[str, Any] = {"gating": "gated", "activation": "gelu_tanh"}
    untied: dict[str, Any] = {"head": "untied", "head_scale": "none"}
    return _t5(name, _t5_model(**shape, **gated, **untied, dropout=0.0))


def t5_v1_1_small() -> Experiment:
    """T5 1.1 small, 77M parameters, 8 + 8 layers of 512 with 6 heads, gated mlp of 1024, untied.

        gesso pretrain t5-v1.1-small --data.store stores/c4-t5

    Shape and changes from google-research/text-to-text-transfer-transformer,
    released_checkpoints.md (T5.1.1); trained as t5-small, on C4 alone, without dropout.
    """
    return _t5_v1_1("t5-v1.1-small", layers=8, embed=512, heads=6, mlp=1024)


def t5_v1_1_base() -> Experiment:
    """T5 1.1 base, 248M parameters, 12 + 12 layers of 768, gated mlp of 2048, untied. Source and
    numbers as t5-v1.1-small.

        gesso pretrain t5-v1.1-base --data.store stores/c4-t5
    """
    return _t5_v1_1("t5-v1.1-base", layers=12, embed=768, heads=12, mlp=2048)


def _debug(name: str, model: Seq2SeqConfig, objective: Any, **optimizer: Any) -> Experiment:
    return Experiment(
        name=name,
        model=model,
        objective=objective,
        data=DataConfig(store="embedded:bytes:2"),
        optimizer=OptimizerConfig(**optimizer),
        steps=200,
        batch=16,
        length=128,
        checkpoint=CheckpointConfig(every_steps=100),
        evaluation=EvaluationConfig(every_steps=100, rows=8, sample_every_steps=200),
        logging=LoggingConfig(every_steps=5),
    )


def debug_t5() -> Experiment:
    """T5's block (relative positions, RMS norm, tied and scaled head) and span corruption at toy
    size, on 2 MB of the embedded corpus as bytes.

        gesso pretrain debug-t5

    Above the 257 ids of the tokenizer there is room for sentinels, up to id 383. Half a minute on 2
    cores; the held-out loss ends near 2.9 nats per target (a unigram model's: 3.7).
    """
    model = Seq2SeqConfig(
        vocab=384,
        embed=64,
        heads=4,
        head_dim=16,
        mlp=256,
        position_encoding="relative",
        relative_buckets=16,
        relative_distance=64,
        embedding_scale="none",
        head_scale="rsqrt_embed",
        norm_kind="rms",
        attention_scale="none",
        embed_std=1.0,
    )
    objective = DenoiseConfig(sentinels=32)
    schedule = ScheduleConfig(kind="cosine", warmup_steps=10, final=0.1)
    settings: dict[str, Any] = {"learning_rate": 1e-2, "schedule": schedule, "clip_norm": 1.0}
    return _debug("debug-t5", model, objective, b2=0.98, **settings)


def debug_transformer() -> Experiment:
    """The Transformer's block (post-norm, sinusoids, one table in three places) at toy size: from
    the first line of a piece of text to the rest of it, with label smoothing, on 2 MB of the
    embedded corpus as bytes.

        gesso pretrain debug-transformer

    Half a minute on 2 cores; the held-out loss ends near 2.8 nats per target (a unigram model's:
    3.6).
    """
    model = Seq2SeqConfig(
        vocab=264,
        embed=64,
        heads=4,
        head_dim=16,
        mlp=256,
        norm="post",
        biases=("mlp",),
        init="fan_average",
    )
    objective = Seq2SeqLMConfig(separator="\n", label_smoothing=0.1)
    schedule = ScheduleConfig(kind="inverse_sqrt", warmup_steps=40)
    settings: dict[str, Any] = {"learning_rate": 6e-3, "schedule": schedule}
    return _debug("debug-transformer", model, objective, b2=0.98, epsilon=1e-9, **settings)
