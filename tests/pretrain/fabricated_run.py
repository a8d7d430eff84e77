"""A run folder with believable figures, made in milliseconds: for tests of the report."""

import json
import math

import numpy as np

COMPONENTS = {
    "Stdlib": 5.1e6,
    "StdlibTests": 4.2e6,
    "Docstrings": 1.6e6,
    "LanguageReference": 0.5e6,
}
START = 1.7e9  # seconds since 1970
SAMPLE = {
    0: "\x1bqz ØØ;;;eee tt  rr<<ee a\n\n  eoi",
    1: "self the of retrun in sefl.\n    def test_ in the value self\n        self.ass",
    2: "test_value(self):\n        self.assertEqual(value, None)\n        self.assertIs(x.",
    3: "test_names(self):\n        for name in self.names:\n            with self.subTest(name):\n",
}


def fabricate(
    folder,
    *,
    name="gpt-neo-quickstart",
    seed=0,
    steps=2000,
    done=True,
    components=COMPONENTS,
    learning_rate=6e-4,
    **experiment,
):
    """Write a run folder and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    records = curves(seed, steps, components, learning_rate)
    if done:
        records.append({"kind": "event", "step": steps, "event": "done", "time": START + steps})
    write_records(folder, records)
    dump(folder, "experiment", {
        "name": name, "steps": steps, "batch": 16, "length": 512, "microbatches": 1, "seed": seed,
        "layout": "fsdp",
        "model": {"vocab": 4096, "positions": 512, "layers": 6, "embed": 256, "heads": 8,
                  "mlp": 1024, "pattern": ["global", "local"], "window": 256, "head": "tied"},
        "optimizer": {"name": "adamw", "learning_rate": learning_rate, "b2": 0.95,
                      "schedule": {"kind": "cosine", "warmup_steps": steps // 20, "final": 0.1},
                      "no_decay": ["*bias", "*norm*"]},
        "data": {"store": "embedded:sentencepiece", "packing": "best_fit",
                 "mixture": {"kind": "natural", "values": {}}},
        "mesh": {"replica": 1, "data": -1, "fsdp": 1, "sequence": 1, "tensor": 1},
    } | experiment)  # fmt: skip
    dump(folder, "environment", {
        "versions": {"python": "3.11.7", "jax": "0.10.2", "flax": "0.12.8", "gesso": "0.1.0"},
        "devices": {"kind": "cpu", "platform": "cpu", "count": 8, "processes": 1},
        "host": {"name": "lab-07", "system": "Linux-6.1-x86_64"}, "xla_flags": "",
        "commit": "f1ba0940002aeb3f95a063a3fd9986314dfd244f", "command": ["gesso", "quickstart"],
    })  # fmt: skip
    dump(folder, "corpus", {
        "components": {c: totals(n) for c, n in components.items()},
        "duplicates": 0.0123, "rejects": {"not JSON": 3, "no text": 12}, "padding": 0.0031,
        "store": "9f2c" * 16,
        "tokenizer": {"kind": "sentencepiece", "vocab_size": 4096, "fingerprint": "ab12" * 16},
        "baselines": {"unigram": 3.412, "byte_3gram": 2.356},
    })  # fmt: skip
    shapes = {
        ("embedding", "VD"): [4096, 256], ("positions", "SD"): [512, 256],
        ("blocks/attention/q", "ZDNH"): [6, 256, 8, 32], ("blocks/mlp/up", "ZDF"): [6, 256, 1024],
        ("norm/scale", "D"): [256],
    }  # fmt: skip
    dump(folder, "parameters", [
        {"name": name, "letters": letters, "shape": shape, "count": math.prod(shape)}
        for (name, letters), shape in shapes.items()
    ])  # fmt: skip
    return folder


def curves(seed, steps, components, learning_rate):
    """Records of a run that goes well, every 1/200 of its steps."""
    random, every = np.random.default_rng(seed), max(1, steps // 200)
    records = [{"kind": "event", "step": 0, "event": "started", "compile_seconds": 4.2}]
    floor = {c: 1.9 + 0.35 * i + random.normal(0, 0.02) for i, c in enumerate(components)}

    def loss(component, step):
        early, late = math.exp(-step / steps * 22), math.exp(-step / steps * 3)
        return floor[component] * (1 + 1.9 * early + 0.55 * late)

    for step in range(every, steps + 1, every):
        noisy = {c: loss(c, step) + random.normal(0, 0.07) for c in components}
        warm = max(1, steps // 20)
        decay = 0.1 + 0.45 * (1 + math.cos(math.pi * (step - warm) / (steps - warm)))
        records.append({
            "kind": "train", "step": step, "rows": [(step - 1) * 16, step * 16],
            "batch_crc32": 7, "loss": float(np.mean(list(noisy.values()))),
            "tokens": 8150, "loss_tokens": 7900,
            "tokens_per_second": 88_000 * (1 - 0.6 * (step == every)) + random.normal(0, 1500),
            "mfu": None, "data_wait_fraction": abs(random.normal(0.001, 0.0006)),
            "grad_norm": math.exp(random.normal(-0.6 + 2 * math.exp(-step / steps * 15), 0.16)),
            "learning_rate": learning_rate * min(step / warm, decay), "skipped": 0,
            "seconds": 0.09, "seconds_left": 0.09 * (steps - step), "components": noisy,
            "time": START + 0.09 * step,
        })  # fmt: skip
        if step % (steps // 8) == 0:
            each = {c: heldout(loss(c, step) + 0.05) for c in components}
            mean = float(np.mean([figures["loss"] for figures in each.values()]))
            records.append({"kind": "evaluation", "step": step, "components": each} | heldout(mean))
        if step % (steps // 4) == 0:
            text = SAMPLE[min(3, step * 4 // steps - 1)]
            records += [
                {"kind": "sample", "step": step, "prompt": prompt, "text": text}
                for prompt in ("def ", "The ", "import ")
            ]
    return records


def heldout(loss, tokens=40_000):
    bits = loss / math.log(2) / 3.1 * 1.6
    return {
        "loss": loss, "perplexity": math.exp(loss), "bits_per_byte": bits,
        "word_perplexity": math.exp(loss * 2.4), "tokens": tokens, "bytes": int(tokens * 3.1),
        "words": int(tokens * 0.4),
    }  # fmt: skip


def totals(tokens):
    return {
        split: {
            "documents": max(1, int(n / 900)), "tokens": int(n), "bytes": int(n * 3.1),
            "words": int(n * 0.4),
        }
        for split, n in (("train", tokens), ("holdout", tokens / 100))
    }  # fmt: skip


def write_records(folder, records):
    with (folder / "metrics.jsonl").open("w") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)


def dump(folder, name, record):
    (folder / f"{name}.json").write_text(json.dumps(record))
