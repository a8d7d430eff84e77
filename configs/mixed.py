"""Several objectives in one run: mixtures of denoisers on one encoder-decoder."""

import dataclasses
from typing import Any

from gesso.configs.seq2seq import debug_t5, t5_v1_1_base
from gesso.objectives.config import DenoiseConfig, MixedConfig, MixedPart
from gesso.pretrain.experiment import Experiment

# Shares and coefficients in this file are equal: the loss is then, on average, a mean over rows.


def _denoisers(shares: float, **denoisers: DenoiseConfig) -> MixedConfig:
    return MixedConfig(
        parts={
            name: MixedPart(objective=each, share=shares, coefficient=shares)
            for name, each in denoisers.items()
        }
    )


def t5_v1_1_base_ul2() -> Experiment:
    """T5 1.1 base on UL2's mixture of denoisers: regular spans (r), a prefix (s) and extreme
    spans (x), each told by a mode id before the source.

        gesso pretrain t5-v1.1-base-ul2 --data.store stores/c4-t5

    Tay et al. 2022 (https://arxiv.org/abs/2205.05131), table 1: spans of 3 and 8 with 15 % noise;
    a prefix whose rest is 25 %; spans of 3, 8 and 64 with 50 % and of 64 with 15 %. Modes are the
    ids after T5's sentinels: 32100 [R], 32101 [S], 32102 [X]. All seven are equally frequent; that,
    and the rest, which is t5-v1.1-base's, is not from the paper.
    """
    base = t5_v1_1_base()
    regular: dict[str, Any] = {"first_sentinel": 32099, "mode": 32100}
    extreme: dict[str, Any] = {"first_sentinel": 32099, "mode": 32102}
    mixture = _denoisers(
        1 / 7,
        r3=DenoiseConfig(noise_density=0.15, mean_span=3.0, **regular),
        r8=DenoiseConfig(noise_density=0.15, mean_span=8.0, **regular),
        s=DenoiseConfig(form="prefix", noise_density=0.25, first_sentinel=32099, mode=32101),
        x3=DenoiseConfig(noise_density=0.5, mean_span=3.0, **extreme),
        x8=DenoiseConfig(noise_density=0.5, mean_span=8.0, **extreme),
        x64=DenoiseConfig(noise_density=0.5, mean_span=64.0, **extreme),
        x64sparse=DenoiseConfig(noise_density=0.15, mean_span=64.0, **extreme),
    )
    mixture = dataclasses.replace(mixture, chunk_tokens=2048 * 32)
    return dataclasses.replace(base, name="t5-v1.1-base-ul2", objective=mixture)


def debug_mixed() -> Experiment:
    """Span corruption and left-to-right text on one T5 at toy size, on 2 MB of the embedded corpus
    as bytes.

        gesso pretrain debug-mixed

    Mode ids 258 and 259 tell the two apart; above them there is room for sentinels up to id 383.
    """
    mixture = _denoisers(
        1 / 2,
        spans=DenoiseConfig(sentinels=32, mode=258),
        text=DenoiseConfig(form="causal", mode=259),
    )
    return dataclasses.replace(debug_t5(), name="debug-mixed", objective=mixture)
