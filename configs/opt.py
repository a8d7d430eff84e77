"""The published runs of OPT (https://arxiv.org/abs/2205.01068), and where each number is from."""

from typing import Any

from gesso.configs.debug import SMALL, debug
from gesso.configs.recipes import MATRICES, PILE, recipe
from gesso.data.config import DataConfig
from gesso.models.config import GPTConfig
from gesso.partitioning.config import MeshConfig
from gesso.pretrain.config import OptimizerConfig, ScheduleConfig
from gesso.pretrain.experiment import Experiment


def debug_opt() -> Experiment:
    """OPT's block (ReLU, positions from row 2 on) with 350M's places of norms and width of the
    table, at toy size, on 2 MB of the embedded corpus as bytes.

        gesso pretrain debug-opt
    """
    shape = SMALL | {"positions": 258}
    different: Any = {"norm": "post", "word_embed": 32}
    return debug("debug-opt", GPTConfig(**shape, **different, first_position=2, activation="relu"))


def _opt(
    name: str, *, layers: int, embed: int, heads: int, rate: float, **settings: Any
) -> Experiment:
    """Section 2 and table 1: batches of 0.5M tokens, AdamW (0.9, 0.95), decay 0.1, clipping at 1,
    warmup over 375M tokens, linear to a tenth over 300e9, dropout 0.1 but for the embeddings,
    standard deviation 0.006, by 1 / sqrt(2 layers) less in what writes to the residual."""
    return recipe(
        name,
        model=GPTConfig(
            vocab=50272,
            positions=2050,
            first_position=2,
            layers=layers,
            embed=embed,
            heads=heads,
            mlp=4 * embed,
            activation="relu",
            init_std=0.006,
            residual_init="depth",
            attention_dropout=0.1,
            residual_dropout=0.1,
            **settings,
        ),
        data=DataConfig(store=PILE, packing="concat"),
        optimizer=OptimizerConfig(
            learning_rate=rate,
            schedule=ScheduleConfig(kind="linear", warmup_steps=715, final=0.1),
            b1=0.9,
            b2=0.95,
            weight_decay=0.1,
            no_decay=MATRICES,
            clip_norm=1.0,
        ),
        mesh=MeshConfig(data=1, fsdp=-1),
        steps=572_300,
        batch=256,
        length=2048,
        microbatches=8,
    )


def opt_125m() -> Experiment:
    """OPT 125M, 12 layers of 768, ReLU, rows of 2048.

        gesso pretrain opt-125m --data.store stores/pile-gpt2

    Zhang et al. 2022, OPT: Open Pre-trained Transformer Language Models (section 2, table 1): 6e-4.
    572,300 updates of 256 rows are its 300e9 tokens. Tokenizer: GPT-2's in 50,272 rows. Its corpus
    (RoBERTa's, parts of the Pile, Reddit) is not published; the Pile stands for it.

    Hardware: one GPU of 80 GB; published: A100s of 80 GB.
    """
    return _opt("opt-125m", layers=12, embed=768, heads=12, rate=6e-4)


def opt_350m() -> Experiment:
    """OPT 350M, 24 layers of 1024, norms after each sublayer, a table of 512, rows of 2048.

        gesso pretrain opt-350m --data.store stores/pile-gpt2

    As opt-125m, at 3e-4. Alone of the published sizes it is post-norm and has a narrower table with
    products in and out (its config.json: do_layer_norm_before false, word_embed_proj_dim 512).

    Hardware: one GPU of 80 GB; published: A100s of 80 GB.
    """
    return _opt("opt-350m", layers=24, embed=1024, heads=16, rate=3e-4, norm="post", word_embed=512)
