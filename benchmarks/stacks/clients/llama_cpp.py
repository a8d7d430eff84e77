"""Runs in a Python that has xllamacpp: a GGUF file on rows of ids, and its tokenizer on texts.

python llama_cpp.py model.gguf asked.npz made.npz
asked: tokens i32[B, L]; lengths i32[B] (0: all); kind "decoder" or "encoder"; texts (may be empty).
made: versions; "log_probabilities" f32[B, L, V] of decoders, "features" f32[B, L, D] of encoders
(places from a row's length on are 0); "ids/i" of each text, without special tokens.
"""
# pyright: reportMissingImports=false

import importlib.metadata
import json
import sys
import urllib.request
from typing import Any

import numpy as np
import xllamacpp


def main(path: str, asked: str, made: str) -> None:
    with np.load(asked) as given:
        found = run(path, dict(given))
    np.savez(made, **found)


def run(path: str, given: dict[str, np.ndarray]) -> dict[str, Any]:
    kind, tokens = str(given["kind"]), given["tokens"]
    out: dict[str, Any] = {
        "versions": np.array([f"xllamacpp {importlib.metadata.version('xllamacpp')}"])
    }
    server = serve(path, encoder=kind == "encoder", longest=tokens.shape[1])
    if tokens.size:
        rows = [row[: n or None].tolist() for row, n in zip(tokens, given["lengths"], strict=True)]
        one = features if kind == "encoder" else log_probabilities
        name = "features" if kind == "encoder" else "log_probabilities"
        each = [one(server, row) for row in rows]
        whole: Any = np.zeros((*tokens.shape, each[0].shape[-1]), np.float32)
        for into, x in zip(whole, each, strict=True):
            into[: len(x)] = x
        out[name] = whole
    for number, text in enumerate(given["texts"]):
        out[f"ids/{number}"] = np.array(tokenized(server, str(text)), np.int64)
    return out


def serve(path: str, *, encoder: bool, longest: int) -> xllamacpp.Server:
    params = xllamacpp.CommonParams()
    params.model.path = path
    params.n_ctx = max(64, longest + 8)
    params.n_parallel = 1
    params.warmup = False
    params.cpuparams.n_threads = 1
    params.cpuparams_batch.n_threads = 1
    params.n_gpu_layers = 0
    # What is compared is the model; its cache is in float16 otherwise.
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    if encoder:
        params.embedding = True
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_NONE
        params.embd_normalize = -1
    return xllamacpp.Server(params)


def log_probabilities(server: xllamacpp.Server, row: list[int]) -> np.ndarray:
    """[L, V]: of what follows each prefix."""
    # The answer has no probabilities where its token is a part of a character, so it is told which
    # token to give; probabilities are those of before.
    plain = tokenized(server, "a")[-1]
    places = []
    for end in range(1, len(row) + 1):
        asked = {"prompt": row[:end], "n_predict": 1, "n_probs": 1 << 20, "cache_prompt": False}
        told = {"samplers": ["top_k"], "top_k": 1, "logit_bias": [[plain, 1000.0]]}
        answer = ask(server, "completion", asked | told)
        top = answer["completion_probabilities"][0]["top_logprobs"]
        values = np.zeros(len(top), np.float32)
        for each in top:
            values[each["id"]] = each["logprob"]
        places.append(values)
    return np.stack(places)


def features(server: xllamacpp.Server, row: list[int]) -> np.ndarray:
    """[L, D]"""
    answer = ask(server, "embedding", {"content": row})
    return np.array(answer[0]["embedding"], np.float32)


def tokenized(server: xllamacpp.Server, text: str) -> list[int]:
    asked = {"content": text, "add_special": False, "parse_special": False}
    return ask(server, "tokenize", asked)["tokens"]


def ask(server: xllamacpp.Server, what: str, body: dict) -> Any:
    """What only the HTTP side offers."""
    request = urllib.request.Request(
        f"{server.listening_address}/{what}",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


if __name__ == "__main__":
    main(*sys.argv[1:])
