"""A tiny run of two objectives, for tests: `python mixed_worker.py FOLDER STEPS`."""

import dataclasses
import os
import sys

from gesso import configs
from gesso.models.config import Seq2SeqConfig
from gesso.objectives.config import DenoiseConfig, MixedConfig, MixedPart
from gesso.partitioning.config import MeshConfig
from gesso.pretrain.experiment import override
from gesso.pretrain.session import run

MIX = MixedConfig(
    parts={
        "r": MixedPart(objective=DenoiseConfig(mode=258), share=3.0),
        "s": MixedPart(objective=DenoiseConfig(form="causal", mode=259), coefficient=0.5),
    }
)
MODEL = Seq2SeqConfig(
    vocab=384, encoder_layers=1, decoder_layers=1, embed=32, heads=2, head_dim=16, mlp=32
)
BATCH = 8


def experiment(**changes):
    made = dataclasses.replace(configs.experiment("debug-gpt2"), model=MODEL, objective=MIX)
    small = {
        "data.store": "embedded:bytes:0.3",
        "length": 48,
        "batch": BATCH,
        "steps": 10,
        "optimizer.schedule.kind": "constant",
        "optimizer.schedule.warmup_steps": 2,
        "checkpoint.every_steps": 4,
        "logging.every_steps": 1,
        "logging.tensorboard": False,
        "evaluation.every_steps": 0,
        "evaluation.sample_every_steps": 0,
        "mesh": MeshConfig(data=-1),
        "layout": "replicated",
    }
    return override(made, small | changes)


if __name__ == "__main__":
    result = run(experiment(steps=int(sys.argv[2])), folder=sys.argv[1], named={"steps"})
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(result.status)
