"""Fine-tuning on labelled examples: texts and pairs, tags, answers, GPT-1's way, and a small
one. `gesso task build` makes the stores; docs/tasks.md tells the whole way.

A task with other labels takes --model.labels N; what the head is of the source's model is drawn.
"""

import dataclasses
from typing import Any

from gesso.data.config import DataConfig
from gesso.evaluation.config import EvaluationConfig
from gesso.models.config import BERTConfig, GPTConfig
from gesso.objectives.config import ClassifyConfig, QAConfig, RegressConfig, TagConfig
from gesso.pretrain.config import (
    CheckpointConfig,
    LoggingConfig,
    OptimizerConfig,
    ScheduleConfig,
    StartConfig,
)
from gesso.pretrain.experiment import Experiment

# bert-base's, without the heads it was pretrained with.
_BERT: dict[str, Any] = {
    "vocab": 30522,
    "positions": 512,
    "layers": 12,
    "embed": 768,
    "heads": 12,
    "mlp": 3072,
    "embedding_dropout": 0.1,
    "attention_dropout": 0.1,
    "residual_dropout": 0.1,
}
_NO_DECAY = ("*bias", "*norm*")


def _bert_optimizer(rate: float, *, warmup: int) -> OptimizerConfig:
    return OptimizerConfig(
        learning_rate=rate,
        schedule=ScheduleConfig(kind="linear", warmup_steps=warmup),
        epsilon=1e-6,
        weight_decay=0.01,
        no_decay=_NO_DECAY,
        clip_norm=1.0,
    )


def finetune_classify() -> Experiment:
    """BERT on a text or a pair of texts with one label, such as SST-2, MNLI or BoolQ.

        gesso import downloads/bert-base-uncased runs/bert
        gesso task build SST-2/train.tsv stores/sst2 --task sst2 --heldout SST-2/dev.tsv \\
            --tokenizer runs/bert/tokenizer
        gesso finetune finetune-classify --start runs/bert --data.store stores/sst2 --steps 6300
        gesso evaluate runs/finetune-classify

    Devlin et al. 2018, https://arxiv.org/abs/1810.04805, appendix A.3: batches of 32, 2e-5 of {2,
    3, 5}e-5, 3 epochs of {2, 3, 4}, a tenth of it warmup. With bias correction, which the original
    code left out and small tasks need (https://arxiv.org/abs/2006.05987); 100 updates of warmup.
    --steps is yours to say: 3 x examples / 32. MNLI has 3 labels: --model.labels 3.

    Hardware: one GPU of 16 GB. Published with BERT-base: SST-2 93.5, MNLI 84.6 (test).
    """
    return Experiment(
        name="finetune-classify",
        model=BERTConfig(**_BERT, outputs=("classify",), labels=2, head_dropout=0.1),
        objective=ClassifyConfig(),
        data=DataConfig(store="stores/sst2"),
        start=StartConfig(allow_fresh=("classifier/*", "pooler/*")),
        optimizer=_bert_optimizer(2e-5, warmup=100),
        steps=6300,
        batch=32,
        length=128,
        checkpoint=CheckpointConfig(every_steps=1000),
        evaluation=EvaluationConfig(every_steps=1000, rows=0),
    )


def finetune_regress() -> Experiment:
    """BERT on texts with a number, such as how alike the two of a pair are (STS-B).

        gesso task build STS-B/train.tsv stores/stsb --task stsb --heldout STS-B/dev.tsv \\
            --tokenizer runs/bert/tokenizer
        gesso finetune finetune-regress --start runs/bert --data.store stores/stsb

    As finetune-classify; 3 epochs of STS-B's 5,749 pairs. Published with BERT-base: Spearman 85.8.
    """
    return dataclasses.replace(
        finetune_classify(),
        name="finetune-regress",
        model=BERTConfig(**_BERT, outputs=("classify",), labels=1, head_dropout=0.1),
        objective=RegressConfig(),
        data=DataConfig(store="stores/stsb"),
        steps=540,
    )


def finetune_tag() -> Experiment:
    """BERT on words with a tag each, such as the names in a text (CoNLL-2003: 9 tags).

        gesso task build eng.train stores/ner --task conll --format conll --heldout eng.testa \\
            --tokenizer runs/bert/tokenizer
        gesso finetune finetune-tag --start runs/bert --data.store stores/ner

    Devlin et al. 2018, section 5.3: each word is tagged at its first token; a cased vocabulary.
    5e-5, 3 epochs of 14,041 sentences. Published with BERT-base: F1 96.4 (dev), with the document
    around each sentence, which this does not give.
    """
    return dataclasses.replace(
        finetune_classify(),
        name="finetune-tag",
        model=BERTConfig(**_BERT, outputs=("tag",), labels=9, head_dropout=0.1),
        objective=TagConfig(),
        data=DataConfig(store="stores/ner"),
        start=StartConfig(allow_fresh=("tagger/*",)),
        optimizer=_bert_optimizer(5e-5, warmup=130),
        steps=1320,
    )


def finetune_qa() -> Experiment:
    """BERT on questions whose answer is a span of a context: SQuAD 1.1 or 2.0.

        gesso task build train-v1.1.json stores/squad --task squad --heldout dev-v1.1.json \\
            --tokenizer runs/bert/tokenizer
        gesso finetune finetune-qa --start runs/bert --data.store stores/squad
        gesso evaluate runs/finetune-qa

    run_squad.py of github.com/google-research/bert: rows of 384 tokens, a window every 128 tokens,
    questions of at most 64 and answers of at most 30, batches of 32, 3e-5, 2 epochs.

    Hardware: one GPU of 16 GB. Published with BERT-base: F1 88.5, exact match 80.8 (1.1, dev).
    """
    return Experiment(
        name="finetune-qa",
        model=BERTConfig(**_BERT, outputs=("span",)),
        objective=QAConfig(),
        data=DataConfig(store="stores/squad"),
        start=StartConfig(allow_fresh=("span/*",)),
        optimizer=_bert_optimizer(3e-5, warmup=550),
        steps=5500,
        batch=32,
        length=384,
        checkpoint=CheckpointConfig(every_steps=1000),
        evaluation=EvaluationConfig(every_steps=1000, rows=0),
    )


def gpt1_classify() -> Experiment:
    """GPT-1 on texts with one label, the language model going on beside it with half the weight.

        gesso import downloads/openai-gpt runs/gpt1
        gesso task build SST-2/train.tsv stores/sst2-gpt1 --task sst2 --heldout SST-2/dev.tsv \\
            --tokenizer runs/gpt1/tokenizer
        gesso finetune gpt1-classify --start runs/gpt1 --data.store stores/sst2-gpt1 \\
            --model.vocab 40481

    Radford et al. 2018, sections 3.2 and 4.1, and github.com/openai/finetune-transformer-lm:
    6.25e-5, warmup over 0.2% of the updates and linear decay, 3 epochs, dropout 0.1 also before the
    head, decay 0.01 of matrices, clipping at 1, lambda 0.5. A text is [start] a [end], a pair
    [start] a [between] b [end]: three ids beyond the vocabulary's, whose rows are new. There 8 rows
    to a GPU; here batches of 32.

    Hardware: one GPU of 16 GB. Published: SST-2 91.3.
    """
    return Experiment(
        name="gpt1-classify",
        model=GPTConfig(
            vocab=40481,
            positions=512,
            layers=12,
            embed=768,
            heads=12,
            mlp=3072,
            norm="post",
            outputs=("classify",),
            labels=2,
            embedding_dropout=0.1,
            attention_dropout=0.1,
            residual_dropout=0.1,
            head_dropout=0.1,
        ),
        objective=ClassifyConfig(cls=40478, sep=40479, end=40480, lm=0.5),
        data=DataConfig(store="stores/sst2-gpt1"),
        start=StartConfig(allow_fresh=("classifier/*",)),
        optimizer=OptimizerConfig(
            learning_rate=6.25e-5,
            schedule=ScheduleConfig(kind="linear", warmup_steps=13),
            weight_decay=0.01,
            no_decay=_NO_DECAY,
            clip_norm=1.0,
        ),
        steps=6300,
        batch=32,
        length=128,
        checkpoint=CheckpointConfig(every_steps=1000),
        evaluation=EvaluationConfig(every_steps=1000, rows=0),
    )


def debug_classify() -> Experiment:
    """Which component of the embedded corpus is an excerpt of: code, tests, docstrings, reference?

        gesso pretrain debug-bert
        gesso finetune debug-classify --start runs/debug-bert
        gesso evaluate runs/debug-classify

    1,118 excerpts of some 40 tokens, packed two to a row. Seconds on 2 cores; without --start
    (gesso pretrain debug-classify) it learns from scratch.
    """
    return Experiment(
        name="debug-classify",
        model=BERTConfig(
            vocab=4096,
            positions=128,
            layers=2,
            embed=64,
            heads=4,
            mlp=256,
            outputs=("classify",),
            labels=4,
            init_std=0.1,
        ),
        objective=ClassifyConfig(per_row=2),
        data=DataConfig(store="embedded-task:wordpiece:2"),
        start=StartConfig(allow_fresh=("classifier/*", "pooler/*")),
        optimizer=OptimizerConfig(
            learning_rate=1e-3,
            schedule=ScheduleConfig(kind="linear", warmup_steps=10),
            weight_decay=0.01,
            no_decay=_NO_DECAY,
            clip_norm=1.0,
        ),
        steps=100,
        batch=16,
        length=128,
        checkpoint=CheckpointConfig(every_steps=50),
        evaluation=EvaluationConfig(every_steps=50, rows=0),
        logging=LoggingConfig(every_steps=5),
    )
