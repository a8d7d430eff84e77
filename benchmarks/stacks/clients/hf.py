"""Runs in a Python that has torch and transformers: a folder as its users use it.

python hf.py folder asked.npz made.npz
asked: ids i32[1, L] to continue; new_tokens (0: nothing is continued); text, for a pipeline.
made: versions; "generated" i64[1, M] of model.generate; "task", the pipeline that ran ("" where
this transformers has none), "text_ids", what the folder's tokenizer makes of the text, and of the
pipeline "written" (ids), "scores" f32[K] of the ids "tokens" (fill-mask), "scores" f32[C] of
the labels in order, or "features" f32[1, L, D].
"""
# pyright: reportMissingImports=false

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers


def main(folder: str, asked: str, made: str) -> None:
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    with np.load(asked) as given:
        ids, new_tokens, text = given["ids"], int(given["new_tokens"]), str(given["text"])
    record = json.loads((Path(folder) / "config.json").read_text())
    kind = record["architectures"][0]
    found: dict[str, Any] = {
        "versions": np.array(
            [f"transformers {transformers.__version__}, torch {torch.__version__}"]
        )
    }
    length = {
        "max_new_tokens": new_tokens,
        "min_new_tokens": new_tokens,
        "do_sample": False,
        "num_beams": 1,  # text2text-generation has 4 beams by default
    }
    if new_tokens:
        model = getattr(transformers, kind).from_pretrained(folder, dtype=torch.float32).eval()
        found["generated"] = model.generate(torch.from_numpy(ids).long(), **length).numpy()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    task = task_of(kind, tokenizer)
    if task == "fill-mask":
        text = f"{text} {tokenizer.mask_token} ."
    found |= {"task": np.array(task), "text_ids": np.array(tokenizer(text)["input_ids"])}
    if task:
        with torch.no_grad():
            found |= piped(task, folder, tokenizer, text, length)
    np.savez(made, **found)


def task_of(kind: str, tokenizer: Any) -> str:
    if "CausalLM" in kind or kind.endswith("LMHeadModel"):
        return "text-generation"
    if "ConditionalGeneration" in kind or kind == "EncoderDecoderModel":
        task = "text2text-generation"  # gone from transformers 5
        return task if task in transformers.pipelines.PIPELINE_REGISTRY.supported_tasks else ""
    if "SequenceClassification" in kind:
        return "text-classification"
    if ("MaskedLM" in kind or "PreTraining" in kind) and tokenizer.mask_token is not None:
        return "fill-mask"
    return "feature-extraction"


def piped(task: str, folder: str, tokenizer: Any, text: str, length: dict) -> dict[str, Any]:
    pipe = transformers.pipeline(
        task, model=folder, tokenizer=tokenizer, device="cpu", dtype=torch.float32
    )
    if task == "text-generation":
        return {
            "written": np.array(pipe(text, return_tensors=True, **length)[0]["generated_token_ids"])
        }
    if task == "text2text-generation":
        made = pipe(text, return_tensors=True, return_text=False, **length)
        return {"written": np.array(made[0]["generated_token_ids"])}
    if task == "fill-mask":
        made = pipe(text, top_k=5)
        return {
            "scores": np.array([each["score"] for each in made], np.float32),
            "tokens": np.array([each["token"] for each in made]),
        }
    if task == "text-classification":
        made = pipe(text, top_k=None)
        made.sort(key=lambda each: pipe.model.config.label2id[each["label"]])
        return {"scores": np.array([each["score"] for each in made], np.float32)}
    return {"features": np.array(pipe(text), np.float32)}


if __name__ == "__main__":
    main(*sys.argv[1:])
