"""Our models on the reference packs (published implementations' outputs), on this device.

Read as `gesso import` reads any published folder. Errors are over tokens that are not padding.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.record import job
from gesso.export.reading import open_folder, parameters_of
from gesso.models import build
from gesso.models.trees import nest

FAMILIES = ("gpt1", "gpt2", "gpt_neo", "gpt_j", "gpt_neox")
CASES = ("full", "short", "right")
# The packs' own tolerances for float32; bfloat16 keeps 8 bits, so it is shown beside the size of
# the logits instead of being judged.
LOGITS, LOSS = 5e-5, 2e-5


def main() -> None:
    spec, record = job()
    device = jax.devices()[0]
    record.add({"device": device.device_kind, "jax": jax.__version__})
    if spec["device"] == "gpu" and device.platform != "gpu":
        raise SystemExit(f"jax sees no GPU here, only {jax.devices()}")
    packs = Path(spec["packs"])
    families = [family for family in FAMILIES if (packs / family / "open").is_dir()]
    if not families:
        record.add({"skipped": f"no reference packs at {packs}; name them with --packs"})
        return
    found: dict[str, Any] = {}
    for family in families[: 2 if spec["tiny"] else None]:
        try:
            found[family] = errors(packs / family / "open", spec)
        except Exception as error:  # one family's failure is a figure, the others still count
            found[family] = {"failed": f"{type(error).__name__}: {error}"[:400]}
        record.add({"packs": found})


def errors(folder: Path, spec: dict[str, Any]) -> dict[str, Any]:
    """{"logits", "loss": largest error over the cases, "size": the largest logit, "passes"} of one
    pack, read as `gesso import` reads a published folder."""
    opened, arrays = open_folder(folder), np.load(folder / "reference.npz")
    model = build(dataclasses.replace(opened.config, attention=spec["attention"]))
    params = nest({name: jnp.asarray(x, spec["compute"]) for name, x in parameters_of(opened)})
    logits = loss = size = 0.0
    with jax.default_matmul_precision("highest" if spec["compute"] == "float32" else "default"):
        for case in CASES:
            z = {name: arrays[f"{case}/{name}"] for name in _present(arrays, case)}
            batch = {"tokens": z["input_ids"]}
            if "attention_mask" in z:
                batch["segments"] = z["attention_mask"].astype(np.int32)
            if "position_ids" in z:
                batch["positions"] = z["position_ids"]
            got = np.asarray(jax.jit(model.apply)(params, batch)["logits"], np.float64)
            visible = batch.get("segments", np.ones_like(batch["tokens"])).astype(bool)
            logits = max(logits, float(np.abs(got - z["logits"])[visible].max()))
            size = max(size, float(np.abs(z["logits"][visible]).max()))
            loss = max(loss, abs(token_mean(got, z["labels"]) - float(z["loss"])))
    passes = None
    if spec["compute"] == "float32":
        passes = logits <= LOGITS and loss <= LOSS
    return {"logits": logits, "loss": loss, "size": size, "passes": passes}


def token_mean(logits: np.ndarray, labels: np.ndarray) -> float:
    """The reference's loss: labels unshifted, -100 ignored, the mean over all tokens."""
    logits, targets = logits[:, :-1], labels[:, 1:]
    top = logits.max(-1, keepdims=True)
    log_z = np.log(np.exp(logits - top).sum(-1)) + top[..., 0]
    picked = np.take_along_axis(logits, np.maximum(targets, 0)[..., None], -1)[..., 0]
    counted = targets != -100
    return float(((log_z - picked) * counted).sum() / counted.sum())


def _present(arrays: Any, case: str) -> list[str]:
    names = ("input_ids", "attention_mask", "position_ids", "logits", "labels", "loss")
    return [name for name in names if f"{case}/{name}" in arrays.files]


if __name__ == "__main__":
    main()
