"""ELMo's published shapes, and one that trains in seconds."""

from gesso.data.config import DataConfig
from gesso.evaluation.config import EvaluationConfig
from gesso.models.config import ELMoConfig
from gesso.objectives.config import BiLMConfig
from gesso.pretrain.config import CheckpointConfig, LoggingConfig, OptimizerConfig, ScheduleConfig
from gesso.pretrain.experiment import Experiment

_FILTERS = ((1, 32), (2, 32), (3, 64), (4, 128), (5, 256), (6, 512), (7, 1024))
# bilm-tf differentiates 20 times the mean loss (its unroll_steps), starts Adagrad's sums of squares
# at 1 and clips the norm of all gradients at 10. Of the mean itself that is 1 / 400 and 1 / 2:
# Adagrad's steps are then the same.
_ADAGRAD = OptimizerConfig(
    name="adagrad",
    learning_rate=0.2,
    initial_accumulator=1 / 400,
    epsilon=0.0,
    clip_norm=0.5,
)


def elmo_original() -> Experiment:
    """ELMo as released: 2 layers of 4096 cells projected to 512, each direction; 2048 character
    filters, 2 highways; 793,471 words, 8192 of them sampled for the softmax. bilm-tf
    (https://github.com/allenai/bilm-tf, bin/train_elmo.py and bilm/training.py): Adagrad 0.2, batch
    3 x 128, 20 tokens, state carried, dropout 0.1, 10 epochs of the 1 Billion Word Benchmark's
    768,648,884 tokens.

        gesso tokenizer train 1b/*.txt --folder words --kind words --vocab-size 793471
        gesso corpus build 1b/*.txt --folder 1b-store --tokenizer words --text-split line
        gesso pretrain elmo-original --data.store 1b-store

    93.6 million parameters (https://arxiv.org/abs/1802.05365) and the softmax's 407 million. The
    paper gives the mean of forward and backward perplexity after 10 epochs: 39.7. Memory and speed
    on accelerators: not measured.
    """
    return Experiment(
        name="elmo-original",
        model=ELMoConfig(
            vocab=793_471,
            filters=_FILTERS,
            highways=2,
            embed=512,
            cell=4096,
            dropout=0.1,
            unroll=20,
        ),
        objective=BiLMConfig(softmax="sampled", samples=8192, state="carried"),
        data=DataConfig(store="1b-store", packing="stream"),
        optimizer=_ADAGRAD,
        steps=1_000_840,
        batch=384,
        length=20,
        checkpoint=CheckpointConfig(every_steps=5000),
        evaluation=EvaluationConfig(every_steps=20_000, rows=1024),
    )


def elmo_small() -> Experiment:
    """The small ELMo of the released models: 1024 cells projected to 128, one highway, otherwise as
    elmo-original (https://allenai.org/allennlp/software/elmo, 13.6 million parameters). 65,536
    classes, all of them in the softmax, and rows of 128 words with whole documents.

        gesso tokenizer train corpus/*.jsonl.zst --folder words --kind words --vocab-size 65536
        gesso corpus build corpus/*.jsonl.zst --folder store --tokenizer words
        gesso pretrain elmo-small --data.store store

    One accelerator of 16 GB should hold it (planned, not measured).
    """
    return Experiment(
        name="elmo-small",
        model=ELMoConfig(
            vocab=65_536,
            filters=_FILTERS,
            highways=1,
            embed=128,
            cell=1024,
            dropout=0.1,
            chunk_words=1024,
        ),
        objective=BiLMConfig(chunk_tokens=2048),
        data=DataConfig(store="store"),
        optimizer=_ADAGRAD,
        steps=100_000,
        batch=64,
        length=128,
        checkpoint=CheckpointConfig(every_steps=2000),
        evaluation=EvaluationConfig(every_steps=5000, rows=256),
    )


def debug_elmo() -> Experiment:
    """ELMo at toy size, words of at most 16 characters, on 2 MB of the embedded corpus, its state
    carried from batch to batch.

        gesso pretrain debug-elmo

    A minute on 2 cores; both directions' held-out perplexities end far below a unigram model's,
    which is printed beside them.
    """
    return Experiment(
        name="debug-elmo",
        model=ELMoConfig(
            vocab=4096,
            characters=16,
            filters=((1, 16), (2, 16), (3, 32)),
            embed=64,
            cell=192,
            highways=1,
        ),
        objective=BiLMConfig(state="carried"),
        data=DataConfig(store="embedded:words:2", packing="stream"),
        optimizer=OptimizerConfig(
            learning_rate=1e-2,
            schedule=ScheduleConfig(kind="cosine", warmup_steps=10, final=0.1),
            b2=0.99,
            clip_norm=1.0,
        ),
        steps=300,
        batch=16,
        length=32,
        checkpoint=CheckpointConfig(every_steps=150),
        evaluation=EvaluationConfig(every_steps=100, rows=16),
        logging=LoggingConfig(every_steps=5),
    )
