"""What `make bench` measures: the programs, and the figures of theirs that have a target."""

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One number of a program's JSON. `path`: the keys that lead to it.

    better: on which side of `target` it should lie; without a target it is only shown.
    """

    name: str
    path: tuple[str, ...]
    definition: str
    target: float | None = None
    better: Literal["more", "less"] = "more"
    unit: str = ""

    def read(self, document: Any) -> float | None:
        """The number, or None where the program did not report it."""
        for key in self.path:
            if not isinstance(document, dict) or key not in document:
                return None
            document = document[key]
        return document if isinstance(document, int | float) else None

    def met(self, value: float) -> bool | None:
        """Whether the target is reached; None where there is none."""
        if self.target is None:
            return None
        return value >= self.target if self.better == "more" else value <= self.target


@dataclass(frozen=True, kw_only=True)
class Program:
    """A module of this folder that prints one JSON document. `quick`: its arguments for --quick."""

    module: str
    arguments: tuple[str, ...] = ()
    quick: tuple[str, ...] = ()
    seconds: int = 1200
    figures: tuple[Figure, ...]


PROGRAMS = (
    Program(
        module="loader",
        quick=("--megatokens", "4", "--seconds", "0.5"),
        figures=(
            Figure(
                name="loader",
                path=("million_tokens_per_cpu_second",),
                definition="rows of 2048 tokens, four components, best-fit packing: tokens that are"
                " not padding per CPU-second, from the finished store to numpy rows",
                target=20,
                unit="million tokens per CPU-second",
            ),
            Figure(
                name="loader / Grain best-fit",
                path=("ratio", "best_fit_64_bins"),
                definition="the same documents through grain.experimental.BestFitPackIterDataset"
                " with 64 bins, in the same process",
                target=2,
                unit="x",
            ),
            Figure(
                name="loader / Grain concat-then-split",
                path=("ratio", "concat_then_split"),
                definition="Grain's faster pipeline, which cuts documents where rows end",
                unit="x",
            ),
        ),
    ),
    Program(
        module="build",
        quick=("--small",),
        seconds=3600,
        figures=(
            Figure(
                name="build / encode, sentencepiece",
                path=("time", "tokenizers", "sentencepiece", "ratio"),
                definition="CPU-seconds of a whole corpus build over those of the tokenizer's own"
                " encode_batch on the same text",
                target=1.3,
                better="less",
                unit="x",
            ),
            Figure(
                name="build / encode, byte-level BPE",
                path=("time", "tokenizers", "byte-level BPE", "ratio"),
                definition="the same with a BPE of GPT-2's kind",
                target=1.3,
                better="less",
                unit="x",
            ),
            Figure(
                name="build memory, large / small corpus",
                path=("memory", "ratio"),
                definition="peak resident memory of building the larger corpus over the smaller's"
                " (1 GB over 100 MB; 160 MB over 40 MB with --quick)",
                target=1.1,
                better="less",
                unit="x",
            ),
        ),
    ),
    Program(
        module="tokenizer_rates",
        arguments=("--json",),
        quick=("--json", "--megabytes", "2"),
        figures=(
            Figure(
                name="byte-level BPE / tokenizers",
                path=("tokenizers", "bpe, tiktoken engine", "ratio"),
                definition="bytes encoded per CPU-second by our fast path over the tokenizers"
                " library with the same file, equal ids",
                target=1,
                unit="x",
            ),
            Figure(
                name="sentencepiece BPE / tokenizers",
                path=("tokenizers", "sentencepiece bpe", "ratio"),
                definition="the same text through sentencepiece's own BPE of as many pieces",
                unit="x",
            ),
        ),
    ),
    Program(
        module="step",
        quick=("--quick",),
        figures=(
            Figure(
                name="step / minimal step",
                path=("ratio",),
                definition="seconds of our compiled step of gpt-neo-125m over those of a"
                " hand-written JAX step of the same model, alternating in one process",
                target=1.1,
                better="less",
                unit="x",
            ),
            Figure(
                name="host overhead",
                path=("host_overhead",),
                definition="share of a training step's wall time outside the compiled step,"
                " gpt-neo-125m at batch 8 x 512",
                target=0.02,
                better="less",
            ),
        ),
    ),
    Program(
        module="masked",
        quick=("--quick",),
        figures=(
            Figure(
                name="masking",
                path=("million_tokens_per_cpu_second", "slowest"),
                definition="rows of 512 places framed, paired and masked on the host, per"
                " CPU-second: the slowest of tokens, words and spans, alone and with pairs",
                target=8,
                unit="million tokens per CPU-second",
            ),
            Figure(
                name="BERT step / minimal step",
                path=("ratio",),
                definition="seconds of our compiled step of bert-base over those of a hand-written"
                " JAX step of the same model, alternating in one process",
                target=1.1,
                better="less",
                unit="x",
            ),
            Figure(
                name="masked-LM head, memory",
                path=("memory", "ours / head all"),
                definition="temporaries of our step, whose head sees the predicted places, over"
                " those of the minimal step with its head at all places (2 layers, 8 x 512)",
                target=0.7,
                better="less",
                unit="x",
            ),
        ),
    ),
    Program(
        module="dropout",
        quick=("--quick",),
        figures=(
            Figure(
                name="BERT step, dropout / bernoulli's",
                path=("ratio",),
                definition="seconds of our compiled step of bert-base with its dropout of 0.1 (4 x"
                " 512) over those of the same step whose dropout draws from jax.random.bernoulli,"
                " as flax.nnx.Dropout does, in turn in one process",
                target=1,
                better="less",
                unit="x",
            ),
            Figure(
                name="BERT step, what dropout adds",
                path=("cost", "ours"),
                definition="CPU-seconds of that step over those of the same step without dropout,"
                " less one",
                better="less",
            ),
        ),
    ),
    Program(
        module="choices",
        quick=("--quick",),
        figures=(
            Figure(
                name="rank classification / from scratch",
                path=("ratio",),
                definition="options scored per second with the prompt (128 to 256 tokens) read once"
                " for its 4 options, over the full forward of every prompt with its option, same"
                " scores, in turn in one process",
                target=2,
                unit="x",
            ),
        ),
    ),
    Program(
        module="export",
        quick=("--quick",),
        seconds=3600,
        figures=(
            Figure(
                name="gesso import, memory / largest array",
                path=("memory", "import"),
                definition="peak memory beyond what the command takes on a model of a few"
                " kilobytes, over the bytes of the largest array; the worse of"
                " GPT-Neo 0.4B and 1.3B shapes, random float32 weights in"
                " GPT-Neo's published layout",
                target=1.3,
                better="less",
                unit="x",
            ),
            Figure(
                name="gesso export, memory / largest array",
                path=("memory", "export"),
                definition="the same, less the parameters themselves: the export is run once"
                " to be checked",
                target=1.3,
                better="less",
                unit="x",
            ),
            Figure(
                name="gesso import, time / copying the files",
                path=("time", "import"),
                definition="seconds of the whole command, to the last fsync, over those of"
                " copying the same files with fsync, nothing in the page cache"
                " before either (mean of a copy before and one after)",
                target=1.5,
                better="less",
                unit="x",
            ),
            Figure(
                name="gesso export, time / copying the files",
                path=("time", "export"),
                definition="the same of export",
                target=1.5,
                better="less",
                unit="x",
            ),
        ),
    ),
    Program(
        module="quickstart",
        quick=("--steps", "40"),
        figures=(
            Figure(
                name="quickstart",
                path=("seconds",),
                definition="wall time of `gesso quickstart` with nothing cached, install excluded:"
                " corpus, tokenizer, store, training, evaluation, samples, report",
                target=300,
                better="less",
                unit="s",
            ),
            Figure(
                name="waiting for data",
                path=("data_wait_fraction",),
                definition="mean share of a training step that waited for the loader",
                target=0.01,
                better="less",
            ),
            Figure(
                name="bits per byte / best baseline",
                path=("over_best_baseline",),
                definition="held-out bits per byte of the trained model over the better of a"
                " unigram model and a byte 3-gram, on the same bytes",
                target=1,
                better="less",
                unit="x",
            ),
        ),
    ),
)
