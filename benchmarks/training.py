"""Measures training steps of the trunk against the same model built of other parts: ``benchmarks/results/training.jsonl``.

    python benchmarks/training.py              measures what is not there yet of the code at hand
    python benchmarks/training.py --only timm  that against this other side alone

The other sides compute the same function, which is checked on equal weights before anything is timed: :class:`Torch` is what one
writes first with ``torch.nn`` and fused attention, :class:`Timm` has timm's rotary attention and perceptron. :class:`Multihead`,
with ``nn.MultiheadAttention``, has no rotary positions and no norm of queries and keys: it does less. All get the same tokens and
take turns; a step is forward and backward. Where there is a GPU a model of the paper's size is measured there too: compiled
against eager, and the share that it reaches of a large product's speed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import timing
import torch
from timing import Case, Timing
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from vidgen.nn.rope import grid_positions, rotary_table
from vidgen.nn.trunk import FinalLayer, Trunk
from vidgen.training.precision import choose

RESULTS = Path(__file__).parent / "results" / "training.jsonl"
CODE = (
    *("vidgen/nn/trunk.py", "vidgen/nn/attention.py", "vidgen/nn/rope.py", "vidgen/nn/norm.py"),
    *("benchmarks/training.py", "benchmarks/timing.py"),
)
PAIRS = 15
STEP = "forward and backward"
FEATURES = 64
NEAR = 1e-4
"""How far the outputs of the two sides may be apart in fp32, of a standard deviation of about one."""
PRODUCT = 8192


@dataclass(frozen=True)
class Size:
    """A model and what a step of it gets: ``batch`` clips of ``grid`` tokens."""

    width: int
    depth: int
    heads: int
    batch: int
    grid: tuple[int, int, int]

    @property
    def tokens(self) -> int:
        """Of a clip."""
        return self.grid[0] * self.grid[1] * self.grid[2]

    @property
    def words(self) -> str:
        """What sets rows of this size apart."""
        return f"{self.batch} x {self.tokens} tokens"

    @property
    def settings(self) -> str:
        """All of it."""
        return (
            f"width {self.width}, {self.depth} blocks, {self.heads} heads, {self.batch} clips of {'x'.join(map(str, self.grid))}"
        )


SMALL = (Size(256, 6, 4, 32, (1, 4, 4)), Size(256, 6, 4, 8, (5, 8, 4)), Size(256, 6, 4, 2, (5, 16, 8)))
"""The default recipe's model, on its own 16 tokens a clip, on 160 and on 640."""

LARGE = Size(1152, 28, 16, 16, (4, 16, 16))
"""DiT-XL, on 1024 tokens a clip: what is measured on a GPU."""


# The same model of other parts -------------------------------------------------------------------------------------------------


class Torch(nn.Module):
    """A DiT block of ``torch.nn``, written plainly."""

    exact = True

    def __init__(self, size: Size) -> None:
        super().__init__()
        width, self.heads = size.width, size.heads
        self.norm1 = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.norm2 = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.qkv = nn.Linear(width, 3 * width)
        self.q_norm = nn.LayerNorm(width // size.heads, eps=1e-6, bias=False)
        self.k_norm = nn.LayerNorm(width // size.heads, eps=1e-6, bias=False)
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def take(self, block: nn.Module) -> None:
        """The weights of one of our blocks."""
        for name, weight in block.state_dict().items():
            place = name.removeprefix("attention.").replace("modulation.", "modulation.1.").replace(".scale", ".weight")
            self.get_parameter(place).data.copy_(weight)

    def attend(self, x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = (part * rope[0] + turned(part) * rope[1] for part in (self.q_norm(q), self.k_norm(k)))
        return self.out(F.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v).transpose(1, 2).flatten(2))

    def forward(self, x: Tensor, c: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.modulation(c).chunk(6, dim=-1)
        x = x + gate_a * self.attend(self.norm1(x) * (1 + scale_a) + shift_a, rope)
        return x + gate_m * self.mlp(self.norm2(x) * (1 + scale_m) + shift_m)


def turned(x: Tensor) -> Tensor:
    """The other half of each rotated pair."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat([-b, a], dim=-1)


class Timm(Torch):
    """The same with timm's attention and perceptron."""

    def __init__(self, size: Size) -> None:
        from timm.layers import AttentionRope, Mlp

        super().__init__(size)
        del self.qkv, self.q_norm, self.k_norm, self.out
        norm = partial(nn.LayerNorm, eps=1e-6, bias=False)
        self.attention = AttentionRope(
            size.width, size.heads, num_prefix_tokens=0, qk_norm=True, norm_layer=norm, rotate_half=True
        )
        self.mlp = Mlp(size.width, 4 * size.width)

    def take(self, block: nn.Module) -> None:
        names = {"attention.out": "attention.proj", "modulation": "modulation.1", "mlp.0": "mlp.fc1", "mlp.2": "mlp.fc2"}
        for name, weight in block.state_dict().items():
            module, _, kind = name.rpartition(".")
            self.get_parameter(f"{names.get(module, module)}.{kind.replace('scale', 'weight')}").data.copy_(weight)

    def attend(self, x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
        cos, sin = rope
        return self.attention(x, torch.cat([sin, cos], dim=-1))


class Multihead(Torch):
    """The same with ``nn.MultiheadAttention``, which has no rotary positions and no norm of queries and keys."""

    exact = False

    def __init__(self, size: Size) -> None:
        super().__init__(size)
        del self.qkv, self.q_norm, self.k_norm, self.out
        self.attention = nn.MultiheadAttention(size.width, size.heads, batch_first=True)

    def take(self, block: nn.Module) -> None:
        """None: it is another function."""

    def attend(self, x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
        return self.attention(x, x, x, need_weights=False)[0]


OTHERS: dict[str, type[Torch]] = {"torch.nn": Torch, "timm": Timm, "MultiheadAttention": Multihead}


class Plain(nn.Module):
    """A stack of one of :data:`OTHERS`, in the place of the trunk, with our trunk's weights."""

    def __init__(self, kind: type[Torch], size: Size, trunk: Trunk) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(kind(size) for _ in range(size.depth))
        for block, source in zip(self.blocks, trunk.blocks, strict=True):
            block.take(source)

    def forward(self, x: Tensor, c: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
        for block in self.blocks:
            x = block(x, c, rope)
        return x


# Speed ----------------------------------------------------------------------------------------------------------------------


class Model(nn.Module):
    """A trunk, ours or another, between a linear map of the tokens and the output layer."""

    def __init__(self, size: Size, trunk: nn.Module) -> None:
        super().__init__()
        self.embed = nn.Linear(FEATURES, size.width)
        self.trunk = trunk
        self.final = FinalLayer(size.width, FEATURES)

    def forward(self, tokens: Tensor, c: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
        return self.final(self.trunk(self.embed(tokens), c, rope), c)


def seeded(model: nn.Module, scale: float = 0.02) -> nn.Module:
    """With noise on every weight, that nothing is silent for starting at zero."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(scale * torch.randn(weight.shape, generator=generator))
    return model


def ours(size: Size) -> Model:
    """Our trunk in its place, with weights that are the same every time."""
    torch.manual_seed(0)
    model = Model(size, Trunk(width=size.width, depth=size.depth, heads=size.heads))
    seeded(model)
    return model


def theirs(kind: type[Torch], size: Size, model: Model) -> Model:
    """The other side, with the weights of ``model``."""
    assert isinstance(model.trunk, Trunk)
    other = Model(size, Plain(kind, size, model.trunk))
    other.embed.load_state_dict(model.embed.state_dict())
    other.final.load_state_dict(model.final.state_dict())
    return other


def given(size: Size, device: torch.device) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """Tokens, conditions and positions."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(size.batch, size.tokens, FEATURES, generator=generator)
    c = torch.randn(size.batch, 1, size.width, generator=generator)
    cos, sin = rotary_table(grid_positions(size.grid), size.width // size.heads)
    return tokens.to(device), c.to(device), (cos.to(device), sin.to(device))


def step(model: nn.Module, size: Size, precision: str, device: torch.device) -> Callable[[], None]:
    """A call that goes forward and backward once."""
    inputs = given(size, device)
    call, weights = model, list(model.parameters())

    def train() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            loss = F.mse_loss(call(*inputs).float(), inputs[0])
        loss.backward()
        for weight in weights:
            weight.grad = None
        wait(device)

    return train


def wait(device: torch.device) -> None:
    """Until what was asked of a GPU is done."""
    if device.type == "cuda":
        torch.cuda.synchronize()


@torch.no_grad()
def check(model: Model, other: Model, size: Size) -> None:
    """Both are the same function, or nothing is compared."""
    inputs = given(size, torch.device("cpu"))
    apart = float((model(*inputs) - other(*inputs)).abs().max())
    if not apart < NEAR:
        raise AssertionError(f"the two sides are {apart:g} apart and not one function")


def speed(name: str, size: Size, precision: str, device: torch.device, subject: str) -> Timing:
    """A step of ours against one of the same model of other parts."""
    kind = OTHERS[name]
    model = ours(size)
    other = theirs(kind, size, model)
    if kind.exact:
        check(model, other, size)
    return timing.compared(
        step(model.to(device), size, precision, device),
        step(other.to(device), size, precision, device),
        subject=subject,
        measure=STEP,
        against=f"the same of {name}" if kind.exact else "nn.MultiheadAttention, which does less",
        settings=size.settings,
        version=timing.code(*CODE),
        pairs=PAIRS,
        rate=(1, "steps/s"),
        least=1 if kind.exact else None,
    )


# GPUs -----------------------------------------------------------------------------------------------------------------------


def compiled(device: torch.device, subject: str) -> Timing:
    """A step compiled against the same step as it is."""
    model = ours(LARGE).to(device)
    return timing.compared(
        step(torch.compile(model), LARGE, "bf16", device),  # type: ignore[arg-type]
        step(model, LARGE, "bf16", device),
        subject=subject,
        measure=f"{STEP}, compiled",
        against="the same, not compiled",
        settings=LARGE.settings,
        version=timing.code(*CODE),
        pairs=PAIRS,
        rate=(LARGE.batch * LARGE.tokens, "tokens/s"),
    )


def share_of_peak(device: torch.device, subject: str) -> Timing:
    """What a compiled step reaches of the speed of a large product of matrices on the same device."""
    model = ours(LARGE).to(device)
    with FlopCounterMode(display=False) as counter:
        step(model, LARGE, "bf16", device)()
    call = step(torch.compile(model), LARGE, "bf16", device)  # type: ignore[arg-type]
    a, b = (torch.randn(PRODUCT, PRODUCT, device=device, dtype=torch.bfloat16) for _ in range(2))

    def product() -> None:
        torch.mm(a, b)
        wait(device)

    found = timing.paired(call, product, pairs=PAIRS)
    reached, fastest = counter.get_total_flops() / median(found.ours), 2 * PRODUCT**3 / median(found.theirs)
    return Timing(
        subject=subject,
        measure=f"{STEP}, share of peak",
        against=f"a product of {PRODUCT}x{PRODUCT} matrices",
        ours=reached / 1e12,
        theirs=fastest / 1e12,
        unit="TFLOP/s",
        ratio=reached / fastest,
        quartiles=None,
        pairs=PAIRS,
        wanted="",
        met=None,
        settings=LARGE.settings,
        code=timing.code(*CODE),
        **timing.provenance(),
    )


def cases() -> Iterator[Case]:
    """All rows, in the order of the table."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    sizes = (LARGE,) if device.type == "cuda" else SMALL
    for precision in dict.fromkeys((choose("auto", device), "fp32")):
        for size in sizes:
            for name in OTHERS:
                subject = f"trunk and {name}, {precision}, {size.words}"
                yield Case(subject, STEP, partial(speed, name, size, precision, device, subject))
    if device.type == "cuda":
        subject = f"trunk, bf16, {LARGE.words}"
        yield Case(subject, f"{STEP}, compiled", partial(compiled, device, subject))
        yield Case(subject, f"{STEP}, share of peak", partial(share_of_peak, device, subject))


if __name__ == "__main__":
    raise SystemExit(timing.run(RESULTS, cases(), timing.code(*CODE)))
