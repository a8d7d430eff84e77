"""Our models on the reference packs (published implementations' outputs), on this device.

Tables and configs come from the tests' reader. Errors are over tokens that are not padding.
"""

import dataclasses
import importlib.util
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.record import job
from models import build

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
    reader = _reader()
    reader.PACKS = Path(spec["packs"])
    families = [f for f in reader.FAMILIES if (reader.PACKS / f / "open").is_dir()]
    if not families:
        record.add({"skipped": f"no reference packs at {reader.PACKS}; name them with --packs"})
        return
    found: dict[str, Any] = {}
    for family in families[: 2 if spec["tiny"] else None]:
        try:
            found[family] = errors(reader.Pack(family), spec)
        except Exception as error:  # one family's failure is a figure, the others still count
            found[family] = {"failed": f"{type(error).__name__}: {error}"[:400]}
        record.add({"packs": found})


def errors(pack: Any, spec: dict[str, Any]) -> dict[str, Any]:
    """{"logits", "loss": largest error over the cases, "size": the largest logit, "passes"}."""
    model = build(dataclasses.replace(pack.config, attention=spec["attention"]))
    params = pack.read(pack.tensors("model"), model.letters)
    params = jax.tree.map(lambda x: jnp.asarray(x, spec["compute"]), params)
    logits = loss = size = 0.0
    with jax.default_matmul_precision("highest" if spec["compute"] == "float32" else "default"):
        for case in CASES:
            z = {name: pack.z[f"{case}/{name}"] for name in _present(pack, case)}
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


def _present(pack: Any, case: str) -> list[str]:
    names = ("input_ids", "attention_mask", "position_ids", "logits", "labels", "loss")
    return [name for name in names if f"{case}/{name}" in pack.z.files]


def _reader() -> Any:
    """tests/models/pack_reader.py: tests are no package, so by its path."""
    path = Path(__file__).resolve().parents[1] / "tests" / "models" / "pack_reader.py"
    found = importlib.util.spec_from_file_location("pack_reader", path)
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main()
