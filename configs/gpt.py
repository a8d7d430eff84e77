"""The published runs of GPT-1, GPT-2, GPT-Neo, GPT-J and GPT-NeoX, and where each number is from.

All read a token store of the corpus they name, tokenized as they were (`gesso corpus build`). Rows
are the published ones, documents joined and cut (`concat`); `--data.packing best_fit` packs whole
documents. Vocabularies are the published ones: to split 50257 over a tensor axis, set
`--model.vocab 50304`. `--model.attention cudnn` is for NVIDIA GPUs, `splash` for TPUs, both without
attention dropout.
"""

from typing import Any

from gesso.configs.recipes import MATRICES, PILE, recipe
from gesso.data.config import DataConfig
from gesso.models.config import GPTConfig
from gesso.partitioning.config import MeshConfig
from gesso.pretrain.config import OptimizerConfig, ScheduleConfig
from gesso.pretrain.experiment import Experiment


def _gpt2(name: str, *, layers: int, embed: int, heads: int, **settings: Any) -> Experiment:
    """GPT-2's architecture and Megatron-LM's published recipe for it: 300,000 updates of 512 rows,
    3,000 of warmup to 1.5e-4, cosine to 1e-5, decay 0.01, clipping at 1, dropout 0.1."""
    return recipe(
        name,
        model=GPTConfig(
            vocab=50257,
            positions=1024,
            layers=layers,
            embed=embed,
            heads=heads,
            mlp=4 * embed,
            residual_init="depth",
            embedding_dropout=0.1,
            attention_dropout=0.1,
            residual_dropout=0.1,
            remat=settings.pop("remat", "none"),
        ),
        data=DataConfig(store="stores/webtext-gpt2", packing="concat"),
        optimizer=OptimizerConfig(
            learning_rate=1.5e-4,
            schedule=ScheduleConfig(kind="cosine", warmup_steps=3000, final=1 / 15),
            weight_decay=0.01,
            no_decay=MATRICES,
            clip_norm=1.0,
        ),
        mesh=MeshConfig(data=1, fsdp=-1),
        steps=300_000,
        batch=512,
        length=1024,
        **settings,
    )


def _gpt_neo(
    name: str, *, layers: int, embed: int, heads: int, optimizer: dict[str, Any], **settings: Any
) -> Experiment:
    return recipe(
        name,
        model=GPTConfig(
            vocab=50257,
            positions=2048,
            layers=layers,
            embed=embed,
            heads=heads,
            mlp=4 * embed,
            pattern=("global", "local"),
            window=256,
            attention_scale="none",
            biases=("attention_out", "mlp"),
            residual_init="layers",
            remat=settings.pop("remat"),
        ),
        data=DataConfig(store=PILE, packing="concat"),
        optimizer=OptimizerConfig(
            b1=0.9,
            b2=0.95,
            epsilon=1e-8,
            no_decay=MATRICES if "weight_decay" in optimizer else (),
            clip_norm=1.0,
            **optimizer,
        ),
        mesh=MeshConfig(data=1, fsdp=-1),
        length=2048,
        **settings,
    )


def gpt1_117m() -> Experiment:
    """GPT-1, 117M parameters, 12 layers of 768, post-norm, rows of 512.

        gesso pretrain gpt1-117m --data.store stores/books-gpt1

    Radford et al. 2018, Improving Language Understanding by Generative Pre-Training, section 4.1
    (https://cdn.openai.com/research-covers/language-unsupervised/language_understanding_paper.pdf):
    batches of 64 rows, Adam at 2.5e-4 after 2,000 updates of warmup, cosine to 0, decay 0.01,
    dropout 0.1, 100 epochs of BooksCorpus. The 3,050,000 updates are our estimate of those epochs
    (1.0e9 tokens each): the paper does not give them. Its tokenizer: BPE of 40,478 ids.

    Hardware: one GPU of 16 GB; published: 8 GPUs for a month.
    """
    return recipe(
        "gpt1-117m",
        model=GPTConfig(
            vocab=40478,
            positions=512,
            layers=12,
            embed=768,
            heads=12,
            mlp=3072,
            norm="post",
            embedding_dropout=0.1,
            attention_dropout=0.1,
            residual_dropout=0.1,
        ),
        data=DataConfig(store="stores/books-gpt1", packing="concat"),
        optimizer=OptimizerConfig(
            learning_rate=2.5e-4,
            schedule=ScheduleConfig(kind="cosine", warmup_steps=2000),
            weight_decay=0.01,
            no_decay=MATRICES,
        ),
        mesh=MeshConfig(data=1, fsdp=-1),
        steps=3_050_000,
        batch=64,
        length=512,
    )


def gpt2_124m() -> Experiment:
    """GPT-2 small, 124M parameters, 12 layers of 768, rows of 1024.

        gesso pretrain gpt2-124m --data.store stores/webtext-gpt2

    Shape: Radford et al. 2019, Language Models are Unsupervised Multitask Learners, table 2
    (https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf),
    which gives the batch (512) but not the optimizer. Optimizer, schedule and dropout: that of
    Megatron-LM's GPT-2 (https://arxiv.org/abs/1909.08053, section 4.2). 157e9 tokens.

    Hardware: one GPU of 80 GB (microbatches 8), or 8 of 24 GB.
    """
    return _gpt2("gpt2-124m", layers=12, embed=768, heads=12, microbatches=8)


def gpt2_355m() -> Experiment:
    """GPT-2 medium, 355M parameters, 24 layers of 1024, rows of 1024.

        gesso pretrain gpt2-355m --data.store stores/webtext-gpt2 --mesh.fsdp 8

    Sources as gpt2-124m; Megatron-LM trained this size with this recipe.

    Hardware: 8 GPUs of 40 GB.
    """
    return _gpt2("gpt2-355m", layers=24, embed=1024, heads=16, microbatches=8)


def gpt2_774m() -> Experiment:
    """GPT-2 large, 774M parameters, 36 layers of 1280, rows of 1024.

        gesso pretrain gpt2-774m --data.store stores/webtext-gpt2 --mesh.fsdp 8

    Sources as gpt2-124m. Hardware: 8 GPUs of 80 GB.
    """
    return _gpt2("gpt2-774m", layers=36, embed=1280, heads=20, microbatches=8, remat="full")


def gpt2_1_5b() -> Experiment:
    """GPT-2 XL, 1.56B parameters, 48 layers of 1600, rows of 1024.

        gesso pretrain gpt2-1.5b --data.store stores/webtext-gpt2 --mesh.fsdp 8

    Sources as gpt2-124m. Hardware: 8 GPUs of 80 GB, or a TPU v4-32.
    """
    return _gpt2("gpt2-1.5b", layers=48, embed=1600, heads=25, microbatches=8, remat="full")


def gpt_neo_125m() -> Experiment:
    """GPT-Neo 125M, 12 layers of 768, global and local (256) attention in turn, rows of 2048.

        gesso pretrain gpt-neo-125m --data.store stores/pile-gpt2

    Rates, batch and steps: EleutherAI/gpt-neo configs/gpt3_small_256.json (6e-4 after 3,000
    updates, cosine to a tenth, betas 0.9 and 0.95, decay 0.1, clipping at 1); attention pattern:
    the released model's config. 572,300 updates of 256 rows are the 300e9 tokens of its model card.

    Hardware: one GPU of 80 GB or a TPU v3-8 (microbatches 8); published: TPU v3-256.
    """
    return _gpt_neo(
        "gpt-neo-125m",
        layers=12,
        embed=768,
        heads=12,
        optimizer={
            "learning_rate": 6e-4,
            "schedule": ScheduleConfig(kind="cosine", warmup_steps=3000, final=0.1),
            "weight_decay": 0.1,
        },
        steps=572_300,
        batch=256,
        microbatches=8,
        remat="none",
    )


def gpt_neo_1_3b() -> Experiment:
    """GPT-Neo 1.3B, 24 layers of 2048, global and local (256) attention in turn, rows of 2048.

        gesso pretrain gpt-neo-1.3b --data.store stores/pile-gpt2 --mesh.fsdp 32

    EleutherAI/gpt-neo configs/GPT3_XL_pretrained.json: 2e-4 after 3,000 updates, cosine over
    300,000 to a tenth, betas 0.9 and 0.95, no decay, clipping at 1, 400,000 updates of 512 rows
    (the released weights are from update 362,000: 380e9 tokens).

    Hardware: TPU v3-256 as published, or 8 GPUs of 80 GB (microbatches 8).
    """
    return _gpt_neo(
        "gpt-neo-1.3b",
        layers=24,
        embed=2048,
        heads=16,
        optimizer={
            "learning_rate": 2e-4,
            "schedule": ScheduleConfig(
                kind="cosine", warmup_steps=3000, decay_steps=297_000, final=0.1
            ),
        },
        steps=400_000,
        batch=512,
        microbatches=2,
        remat="full",
    )


def gpt_neo_2_7b() -> Experiment:
    """GPT-Neo 2.7B, 32 layers of 2560, global and local (256) attention in turn, rows of 2048.

        gesso pretrain gpt-neo-2.7b --data.store stores/pile-gpt2 --mesh.fsdp 64

    EleutherAI/gpt-neo configs/GPT3_2-7B_pretrained.json: 1.6e-4 after 3,000 updates, cosine over
    300,000 to a tenth, betas 0.9 and 0.95, no decay, clipping at 1, 400,000 updates of 512 rows
    (420e9 tokens).

    Hardware: TPU v3-256 as published, or 16 GPUs of 80 GB (microbatches 8).
    """
    return _gpt_neo(
        "gpt-neo-2.7b",
        layers=32,
        embed=2560,
        heads=20,
        optimizer={
            "learning_rate": 1.6e-4,
            "schedule": ScheduleConfig(
                kind="cosine", warmup_steps=3000, decay_steps=297_000, final=0.1
            ),
        },
        steps=400_000,
        batch=512,
        microbatches=2,
        remat="full",
    )


def gpt_j_6b() -> Experiment:
    """GPT-J 6B, 28 parallel layers of 4096, rotary on 64 of a head's 256 dims, rows of 2048.

        gesso pretrain gpt-j-6b --data.store stores/pile-gpt2 --mesh.fsdp 64

    https://github.com/kingoflolz/mesh-transformer-jax, configs/6B_roto_256.json: 1.2e-4 after 3,000
    updates, cosine over 300,000 to a tenth, 350,000 updates of 512 rows, decay 0.1 of matrices,
    clipping at 1, Adam's default betas. Its initialisation: 1/sqrt(4096) for products that read the
    residual and 2 / (28 sqrt(4096)) for those that write to it; its embedding's 1/sqrt(50400) is
    ours too big by 3.5. Vocabulary: GPT-2's 50,257 ids in 50,400 rows.

    Hardware: TPU v3-256 as published; v5e-256 and v5p-64 fit it. Where memory is left,
    `--model.remat save_qkv_attention_mlp` recomputes less (one H200: batch 8 fits).
    """
    return recipe(
        "gpt-j-6b",
        model=GPTConfig(
            vocab=50400,
            positions=2048,
            layers=28,
            embed=4096,
            heads=16,
            mlp=16384,
            position_encoding="rotary",
            rotary_dims=64,
            block="parallel_shared_norm",
            biases=("mlp", "head"),
            head="untied",
            init_std=4096**-0.5,
            residual_init="wang",
            remat="full",
        ),
        data=DataConfig(store=PILE, packing="concat"),
        optimizer=OptimizerConfig(
            learning_rate=1.2e-4,
            schedule=ScheduleConfig(
                kind="cosine", warmup_steps=3000, decay_steps=300_000, final=0.1
            ),
            b1=0.9,
            b2=0.999,
            weight_decay=0.1,
            no_decay=MATRICES,
            clip_norm=1.0,
        ),
        mesh=MeshConfig(data=1, fsdp=-1),
        steps=350_000,
        batch=512,
        length=2048,
    )


def gpt_neox_20b() -> Experiment:
    """GPT-NeoX 20B, 44 parallel layers of 6144, rotary on 24 of a head's 96 dims, rows of 2048.

        gesso pretrain gpt-neox-20b --data.store stores/pile-neox --mesh.fsdp 256

    Black et al. 2022 (https://arxiv.org/abs/2204.06745, table 1 and appendix) and
    EleutherAI/gpt-neox configs/20B.yml: 0.97e-4 after 1,500 updates, cosine over 150,000 to a
    tenth, betas 0.9 and 0.95, decay 0.01, clipping at 1, 1,536 rows per update; standard deviations
    sqrt(2 / (5 embed)) and 2 / (layers sqrt(embed)). Its own BPE of 50,257 ids in 50,432 rows.
    Published in float16; bfloat16 here. Its fused GELU is the tanh approximation.

    Hardware: 96 A100 40 GB as published; v5p-256 or 64 H100. `--layout fsdp_tensor --mesh.tensor 2`
    splits it as published.
    """
    return recipe(
        "gpt-neox-20b",
        model=GPTConfig(
            vocab=50432,
            positions=2048,
            layers=44,
            embed=6144,
            heads=64,
            mlp=24576,
            position_encoding="rotary",
            rotary_dims=24,
            rotation="half",
            block="parallel",
            head="untied",
            init_std=(2 / (5 * 6144)) ** 0.5,
            residual_init="wang",
            remat="full",
        ),
        data=DataConfig(store="stores/pile-neox", packing="concat"),
        optimizer=OptimizerConfig(
            learning_rate=0.97e-4,
            schedule=ScheduleConfig(
                kind="cosine", warmup_steps=1500, decay_steps=148_500, final=0.1
            ),
            b1=0.9,
            b2=0.95,
            weight_decay=0.01,
            no_decay=MATRICES,
            clip_norm=1.0,
        ),
        mesh=MeshConfig(data=1, fsdp=-1),
        steps=150_000,
        batch=1536,
        length=2048,
        microbatches=4,
    )
