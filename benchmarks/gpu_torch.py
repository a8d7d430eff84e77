"""The peer: a plain GPT of the same shape in torch, as one would write it for this card.

bfloat16 autocast, SDPA with a fused kernel, fused AdamW, torch.compile, float32 parameters. Local
layers are computed globally (SDPA has no window) and rows hold one document.
"""

import math
from collections.abc import Callable
from dataclasses import asdict
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from benchmarks.gpu_shapes import attention_flops, attention_sizes, experiment_of, rows
from benchmarks.record import Record, job, timed
from gesso.models.config import GPTConfig
from gesso.models.count import flops_per_token
from gesso.partitioning.machines.chips import peak_flops


class Block(nn.Module):
    def __init__(self, c: GPTConfig):
        super().__init__()
        self.c = c
        self.norm = nn.LayerNorm(c.embed, eps=c.epsilon)
        shared = c.block == "parallel_shared_norm"
        self.mlp_norm = None if shared else nn.LayerNorm(c.embed, eps=c.epsilon)
        self.qkv = nn.Linear(c.embed, 3 * c.embed, bias="qkv" in c.biases)
        self.out = nn.Linear(c.embed, c.embed, bias="attention_out" in c.biases)
        self.up = nn.Linear(c.embed, c.mlp)
        self.down = nn.Linear(c.mlp, c.embed)

    def attend(self, x: torch.Tensor, turns: Any) -> torch.Tensor:
        b, length, embed = x.shape
        heads = (b, length, 3, self.c.heads, self.c.head_dim)
        q, k, v = self.qkv(x).view(heads).permute(2, 0, 3, 1, 4)
        if turns is not None:
            q, k = rotate(q, *turns), rotate(k, *turns)
        scale = 1.0 if self.c.attention_scale == "none" else self.c.head_dim**-0.5
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)
        return self.out(y.transpose(1, 2).reshape(b, length, embed))

    def feed(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(F.gelu(self.up(x), approximate="tanh"))

    def forward(self, x: torch.Tensor, turns: Any) -> torch.Tensor:
        if self.mlp_norm is None:
            normal = self.norm(x)
            return x + self.attend(normal, turns) + self.feed(normal)
        x = x + self.attend(self.norm(x), turns)
        return x + self.feed(self.mlp_norm(x))


class GPT(nn.Module):
    def __init__(self, c: GPTConfig, *, length: int, recompute: bool):
        super().__init__()
        self.c, self.recompute = c, recompute
        self.embed = nn.Embedding(c.vocab, c.embed)
        learned = c.position_encoding == "learned"
        self.positions = nn.Embedding(c.positions, c.embed) if learned else None
        self.blocks = nn.ModuleList(Block(c) for _ in range(c.layers))
        self.norm = nn.LayerNorm(c.embed, eps=c.epsilon)
        self.head = nn.Linear(c.embed, c.vocab, bias="head" in c.biases)
        if c.head == "tied":
            self.head.weight = self.embed.weight
        for each in self.modules():
            if isinstance(each, nn.Linear | nn.Embedding):
                nn.init.normal_(each.weight, std=c.init_std)
        angle = torch.arange(length)[:, None] * c.rotary_base ** (
            -torch.arange(0, max(c.rotary_dims, 2), 2) / max(c.rotary_dims, 2)
        )
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)

    def forward(self, tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        x, turns = self.embed(tokens), None
        if self.positions is not None:
            x = x + self.positions.weight[: tokens.shape[1]]
        else:
            turns = (self.cos, self.sin)
        for block in self.blocks:
            if self.recompute:
                x = checkpoint(block, x, turns, use_reentrant=False)
            else:
                x = block(x, turns)
        logits = self.head(self.norm(x))
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten().long())


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Interleaved pairs of the first dims, as GPT-J turns them. x: [batch, heads, length, dim]."""
    dims = 2 * cos.shape[-1]
    even, odd = x[..., :dims:2].float(), x[..., 1:dims:2].float()
    turned = torch.stack((even * cos - odd * sin, odd * cos + even * sin), -1).flatten(-2)
    return torch.cat((turned.to(x.dtype), x[..., dims:]), -1)


def main() -> None:
    spec, record = job()
    device = "cuda" if spec["device"] == "gpu" else "cpu"
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    record.add({"device": name, "torch": torch.__version__})
    torch.manual_seed(0)
    {"steps": steps, "attention": attention}[spec["measure"]](spec, record, device)


def steps(spec: dict[str, Any], record: Record, device: str) -> None:
    torch.set_float32_matmul_precision("high")
    only(spec["attention"])
    e = experiment_of(spec)
    with torch.device(device):
        model = GPT(e.model, length=e.length, recompute=e.model.remat == "full")
    o = e.optimizer
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=1e-4,
        betas=(o.b1, o.b2),
        eps=o.epsilon,
        weight_decay=o.weight_decay,
        fused=True,
    )
    row = torch.from_numpy(rows(e, "single", overlap=1)["tokens"]).to(device)
    tokens, targets = row[:, :-1].contiguous(), row[:, 1:].contiguous()
    compiled: Any = model if spec["tiny"] else torch.compile(model, mode=spec["mode"])

    def step() -> torch.Tensor:
        with torch.autocast(device, torch.bfloat16):
            loss = compiled(tokens, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), o.clip_norm or math.inf)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    record.add({"tokens_per_step": e.batch * e.length, "first_loss": round(float(step()), 4)})
    timing = timed(step, wait_on(device))
    rate = e.batch * e.length / timing.median
    peak = peak_flops(SimpleNamespace(device_kind=record.figures["device"]))
    flops = flops_per_token(e.model, e.length)
    on_card = device == "cuda"
    record.add(
        {
            "seconds_per_step": timing.median,
            "timing": asdict(timing),
            "tokens_per_second": round(rate, 1),
            "mfu": None if peak is None else round(flops * rate / peak, 4),
            "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2) if on_card else None,
            "last_loss": round(float(step()), 4),
        }
    )


def attention(spec: dict[str, Any], record: Record, device: str) -> None:
    batch, length, heads, head_dim = attention_sizes(spec)
    shape = (batch, heads, length, head_dim)
    q, k, v = (
        torch.randn(shape, device=device, dtype=torch.bfloat16, requires_grad=True)
        for _ in range(3)
    )
    dy = torch.randn(shape, device=device, dtype=torch.bfloat16)
    found: dict[str, Any] = {}
    for kernel in ("flash", "cudnn", "efficient") if device == "cuda" else ("flash",):
        only(kernel)

        def forward() -> torch.Tensor:
            with torch.no_grad():
                return F.scaled_dot_product_attention(q, k, v, is_causal=True)

        def both() -> Any:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            return torch.autograd.grad(y, (q, k, v), dy)

        try:
            found[kernel] = {}
            for what, run in (("forward", forward), ("both", both)):
                timing = timed(run, wait_on(device), window_seconds=0.3)
                work = attention_flops(spec) * (1.0 if what == "forward" else 3.5)
                found[kernel][what] = asdict(timing) | {
                    "teraflops": round(work / timing.median / 1e12, 3)
                }
        except RuntimeError as error:  # a kernel that refuses this head dim
            found[kernel]["failed"] = str(error)[:300]
        record.add({"shape": f"{batch} x {length} x {heads} x {head_dim}", "variants": found})


def only(kernel: str) -> None:
    """Let SDPA choose this kernel alone, so that a silent fallback is an error."""
    torch.backends.cuda.enable_flash_sdp(kernel == "flash")
    torch.backends.cuda.enable_cudnn_sdp(kernel == "cudnn")
    torch.backends.cuda.enable_mem_efficient_sdp(kernel == "efficient")
    # The CPU has no other than flash and plain; the flags do not apply to its flash.
    torch.backends.cuda.enable_math_sdp(not torch.cuda.is_available())


def wait_on(device: str) -> Callable[[Any], None]:
    return lambda _: torch.cuda.synchronize() if device == "cuda" else None


if __name__ == "__main__":
    main()
