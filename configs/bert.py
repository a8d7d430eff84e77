"""The published runs of BERT and RoBERTa, where each number is from, and a small one.

All read a token store of the corpus they name, tokenized as they were (`gesso corpus build`). The
original joins as many sentences as fit and pads the rest; here rows are packed with whole documents
or pieces of them, each framed and paired by itself, so a batch has fewer rows of padding and more
pairs. Masks are drawn anew for every row number, where BERT's data held ten copies of the corpus.
"""

from typing import Any

from gesso.data.config import DataConfig
from gesso.evaluation.config import EvaluationConfig
from gesso.models.config import BERTConfig
from gesso.objectives.config import MaskedLMConfig
from gesso.partitioning.config import MeshConfig
from gesso.pretrain.config import (
    CheckpointConfig,
    LoggingConfig,
    OptimizerConfig,
    PhaseConfig,
    PrecisionConfig,
    ScheduleConfig,
)
from gesso.pretrain.experiment import Experiment

MATRICES = ("*bias", "*norm*")  # what neither recipe decays
DROPOUT: dict[str, Any] = {
    "embedding_dropout": 0.1,
    "attention_dropout": 0.1,
    "residual_dropout": 0.1,
}


def _recipe(name: str, **settings: Any) -> Experiment:
    return Experiment(
        name=name,
        precision=PrecisionConfig(params="float32", compute="bfloat16"),
        mesh=MeshConfig(data=1, fsdp=-1),
        checkpoint=CheckpointConfig(every_steps=1000, keep_last=3, keep_every_steps=50_000),
        evaluation=EvaluationConfig(every_steps=5000),
        length=512,
        **settings,
    )


def _bert(name: str, *, layers: int, embed: int, heads: int) -> Experiment:
    """The recipe of both sizes: a million updates of 256 rows, of 128 tokens in the first 90%."""
    return _recipe(
        name,
        model=BERTConfig(
            vocab=30522,
            positions=512,
            layers=layers,
            embed=embed,
            heads=heads,
            mlp=4 * embed,
            outputs=("mlm", "nsp"),
            **DROPOUT,
        ),
        objective=MaskedLMConfig(pairs="nsp"),
        data=DataConfig(store="stores/wiki-books-bert"),
        optimizer=OptimizerConfig(
            name="adamw_bert",
            learning_rate=1e-4,
            schedule=ScheduleConfig(kind="linear", warmup_steps=10_000),
            epsilon=1e-6,
            weight_decay=0.01,
            no_decay=MATRICES,
            clip_norm=1.0,
        ),
        phases=(PhaseConfig(until=900_000, length=128, batch=256),),
        steps=1_000_000,
        batch=256,
    )


def bert_base() -> Experiment:
    """BERT-base, uncased, 110M parameters: 12 layers of 768, masked tokens and next sentences.

        gesso pretrain bert-base --data.store stores/wiki-books-bert

    Devlin et al. 2018, https://arxiv.org/abs/1810.04805, appendix A.2: a million updates of 256
    rows, Adam at 1e-4 with 10,000 updates of warmup and linear decay, decay 0.01, dropout 0.1, the
    first 90% of the updates with rows of 128 tokens. From its code (optimization.py and modeling.py
    of github.com/google-research/bert): no bias correction, epsilon 1e-6, clipping at 1, no decay
    of norms and biases, truncated normal weights of 0.02. English Wikipedia and BooksCorpus, 3.3e9
    words, in its uncased WordPiece of 30,522 ids (`gesso tokenizer import vocab.txt`).

    Hardware: published, 4 Cloud TPUs (16 chips) for 4 days; parameters and Adam take 1.8 GB.
    """
    return _bert("bert-base", layers=12, embed=768, heads=12)


def bert_large() -> Experiment:
    """BERT-large, uncased, 335M parameters: 24 layers of 1024; else as bert-base.

        gesso pretrain bert-large --data.store stores/wiki-books-bert

    Devlin et al. 2018, https://arxiv.org/abs/1810.04805, section 3 and appendix A.2.

    Hardware: published, 16 Cloud TPUs (64 chips) for 4 days.
    """
    return _bert("bert-large", layers=24, embed=1024, heads=16)


def roberta_base() -> Experiment:
    """RoBERTa-base, 125M parameters: BERT-base's shape, masked tokens alone, rows of 512 tokens.

        gesso pretrain roberta-base --data.store stores/roberta

    Liu et al. 2019, https://arxiv.org/abs/1907.11692, table 9: 500,000 updates of 8,192 rows, Adam
    (0.9, 0.98, epsilon 1e-6) at 6e-4 with 24,000 updates of warmup and linear decay, decay 0.01,
    dropout 0.1, no clipping; masks drawn anew each time (section 4.1), no next sentences (4.2).
    160 GB of text in its byte-level BPE of 50,265 ids, whose <s>, </s> and <mask> frame and mask
    (`gesso tokenizer import FOLDER --eos "</s>"`). Positions start at row 2, as its code has them.

    Hardware: published, 1024 V100s for about a day.
    """
    return _recipe(
        "roberta-base",
        model=BERTConfig(
            vocab=50265,
            positions=514,
            first_position=2,
            token_types=1,
            layers=12,
            embed=768,
            heads=12,
            mlp=3072,
            outputs=("mlm",),
            epsilon=1e-5,
            init="normal",
            **DROPOUT,
        ),
        objective=MaskedLMConfig(),
        data=DataConfig(store="stores/roberta"),
        optimizer=OptimizerConfig(
            learning_rate=6e-4,
            schedule=ScheduleConfig(kind="linear", warmup_steps=24_000),
            b2=0.98,
            epsilon=1e-6,
            weight_decay=0.01,
            no_decay=MATRICES,
        ),
        steps=500_000,
        batch=8192,
    )


def debug_bert() -> Experiment:
    """BERT at toy size, masked tokens and next sentences, on 2 MB of the embedded corpus in its own
    WordPiece of 4,096 ids.

        gesso pretrain debug-bert

    Half a minute on 2 cores; the held-out loss of masked tokens ends near 5.3 nats (unigram: 6.0)
    with 17% of them right (the most frequent token: 5%). So little text teaches no next sentences.
    """
    return Experiment(
        name="debug-bert",
        model=BERTConfig(
            vocab=4096,
            positions=128,
            layers=2,
            embed=64,
            heads=4,
            mlp=256,
            outputs=("mlm", "nsp"),
            # The published 0.02 keeps so narrow a model at the unigram for hundreds of updates.
            init_std=0.1,
        ),
        objective=MaskedLMConfig(pairs="nsp"),
        data=DataConfig(store="embedded:wordpiece:2"),
        optimizer=OptimizerConfig(
            learning_rate=4e-3,
            schedule=ScheduleConfig(kind="linear", warmup_steps=50),
            b2=0.98,
            weight_decay=0.01,
            no_decay=MATRICES,
            clip_norm=1.0,
        ),
        steps=700,
        batch=32,
        length=64,
        checkpoint=CheckpointConfig(every_steps=350),
        evaluation=EvaluationConfig(every_steps=175, rows=16),
        logging=LoggingConfig(every_steps=10),
    )
