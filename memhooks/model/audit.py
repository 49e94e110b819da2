"""Do edits at a model's hook points do what they say? Three checks per kind of site, in both ways of editing.

1. Identity: a hook that puts the activation back changes no logit.
2. Edit: a hook that really changes the activation changes the logits.
3. Full patch: everything that reaches the site is scrambled, the clean activation is put
   there, and the logits are the clean ones again: the edit goes everywhere it should.

Each runs as one row of a batch, in every layer, once with a returned tensor and once in
place. It needs only `hook_dict`, `run_with_hooks` and `cfg`, so it also
judges other hooked models, such as the Bridge of TransformerLens 4.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, get_args, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from memhooks.errors import InputError
from memhooks.model.audit_result import Audit, AuditRow, Way

IDENTITY, EDIT, FULL = range(3)  # rows of the batch


@runtime_checkable
class Hookable(Protocol):
    """What a model must offer to be audited."""

    cfg: Any
    hook_dict: Any

    def run_with_hooks(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as TransformerLens has it
        """Run the model with hooks for one pass."""
        ...


SCRAMBLED: dict[str, tuple[str, ...]] = {
    "ln1.hook_normalized": ("ln1.hook_scale",),
    "attn.hook_q": ("ln1.hook_normalized",),
    "attn.hook_k": ("ln1.hook_normalized",),
    "attn.hook_v": ("ln1.hook_normalized",),
    "attn.hook_attn_scores": ("attn.hook_q", "attn.hook_k"),
    "attn.hook_pattern": ("attn.hook_q", "attn.hook_k"),
    "attn.hook_z": ("attn.hook_q", "attn.hook_k", "attn.hook_v"),
    "hook_attn_out": ("attn.hook_z",),
    "ln2.hook_normalized": ("ln2.hook_scale",),
    "mlp.hook_pre": ("ln2.hook_normalized",),
    "mlp.hook_post": ("mlp.hook_pre",),
    "hook_mlp_out": ("mlp.hook_post",),
}
"""For each site of a block the sites that reach the logits through it alone (with its companions)."""

TOGETHER = ("attn.hook_q", "attn.hook_k", "attn.hook_v")
"""One norm feeds all three, so only patching all three gives the clean logits."""

CUTS = ("hook_embed", "hook_resid_pre", "hook_resid_mid", "hook_resid_post", "ln_final.hook_normalized")
"""Everything passes through these, so other tokens are scramble enough."""

NO_FULL_PATCH = ("hook_pos_embed", "ln1.hook_scale", "ln2.hook_scale", "ln_final.hook_scale")
"""Nothing reaches the logits through these alone: they have the first two checks."""


@torch.no_grad()
def audit(model: Hookable, *, length: int = 5, seed: int = 0) -> Audit:
    """Check that edits at every kind of hook point reach the logits, and reach all of them.

    Args:
        model: a hooked model in eval mode; hook points that are switched off are left out.
        length: tokens of the probe.
        seed: of the probe's tokens and of the edits.

    Raises:
        InputError: a probe of fewer than two tokens, or longer than the context.
    """
    if not 2 <= length <= model.cfg.n_ctx:
        raise InputError(f"length must lie in 2..{model.cfg.n_ctx}, got {length}")
    run = _clean_run(model, length, seed)
    # Rows of a larger batch round differently; half precision rounds so coarsely that a few per cent must do.
    tolerance = min(100 * torch.finfo(run.logits.dtype).eps, 0.03) * _largest(run.logits)
    rows = []
    for site, names in _sites(run.activations).items():
        for way in get_args(Way):
            try:
                effects = _effects(model, run, site, names, way)
            except (RuntimeError, IndexError) as error:  # loud, but still an edit that cannot be made
                failed = (f"raises {type(error).__name__}",)
                rows += [AuditRow(site, name, _attention(model, name), way, None, None, None, failed) for name in names]
                continue
            for name, effect in zip(names, effects, strict=True):
                rows.append(AuditRow(site, name, _attention(model, name), way, *effect, _failed(*effect, tolerance)))
    return Audit(tuple(rows), tolerance)


@dataclass(frozen=True)
class _CleanRun:
    """What edits are compared with."""

    tokens: Int[Tensor, " pos"]
    other_tokens: Int[Tensor, " pos"]
    logits: Float[Tensor, "pos d_vocab"]
    activations: dict[str, Tensor]
    seed: int


def _clean_run(model: Hookable, length: int, seed: int) -> _CleanRun:
    generator = torch.Generator().manual_seed(seed)
    tokens, other = torch.randint(model.cfg.d_vocab, (2, length), generator=generator).to(model.cfg.device)
    activations = {}

    def recorder(name: str) -> Callable:  # a Bridge's hook knows only one of its names
        def record(activation: Tensor, hook: object) -> None:
            activations[name] = activation[0].clone()

        return record

    names = [name for name in model.hook_dict if _site(name) in {*SCRAMBLED, *CUTS, *NO_FULL_PATCH}]
    logits = model.run_with_hooks(tokens[None], fwd_hooks=[(name, recorder(name)) for name in names])
    return _CleanRun(tokens, other, logits[0], activations, seed)


def _effects(
    model: Hookable, run: _CleanRun, site: str, names: Sequence[str], way: Way
) -> list[tuple[float, float, float | None]]:
    """The three effects at each of the names: one pass in which every layer has three rows of its own."""
    probe = run.tokens.repeat(3 * len(names), 1)
    if site in CUTS:
        probe[FULL::3] = run.other_tokens
    hooks: list[tuple[str, Callable]] = []
    for place, name in enumerate(names):
        block, rows = name.removesuffix(site), slice(3 * place, 3 * place + 3)
        hooks += [(block + upstream, _scramble(way, rows, run.seed + 1)) for upstream in SCRAMBLED.get(site, ())]
        for one in TOGETHER if site in TOGETHER else (site,):
            clean = run.activations[block + one]
            hooks.append((block + one, _put(way, rows, clean, run.seed, edits=one == site)))
    after = model.run_with_hooks(probe, fwd_hooks=hooks)
    effect = (after - run.logits).abs().flatten(1).amax(1).reshape(-1, 3).tolist()
    defined = site in CUTS or site in SCRAMBLED
    return [(one[IDENTITY], one[EDIT], one[FULL] if defined else None) for one in effect]


def _put(way: Way, rows: slice, clean: Tensor, seed: int, *, edits: bool) -> Callable:
    """A hook that puts its first row back, changes the second and patches the third with the clean activation."""

    def put(activation: Tensor, hook: object) -> Tensor | None:
        wanted = activation.clone()
        if edits:
            wanted[rows][EDIT] *= _factors(clean, seed)
        wanted[rows][FULL] = clean
        return _deliver(way, activation, wanted)

    return put


def _scramble(way: Way, rows: slice, seed: int) -> Callable:
    def scramble(activation: Tensor, hook: object) -> Tensor | None:
        wanted = activation.clone()
        wanted[rows][FULL] *= _factors(wanted[rows][FULL], seed)
        return _deliver(way, activation, wanted)

    return scramble


def _deliver(way: Way, activation: Tensor, wanted: Tensor) -> Tensor | None:
    if way == "returned":
        return wanted
    activation.copy_(wanted)
    return None


def _factors(activation: Tensor, seed: int) -> Tensor:
    """Between a quarter and seven quarters: positive, so that masked scores stay masked and scales stay scales."""
    generator = torch.Generator().manual_seed(seed)
    return (0.25 + 1.5 * torch.rand(activation.shape, generator=generator)).to(activation)


def _failed(identity: float, edit: float, full: float | None, tolerance: float) -> tuple[str, ...]:
    checks = {
        "identity changes the logits": identity <= tolerance,
        "edit does not reach the logits": edit > 4 * identity + tolerance / 10,
        "full patch misses the clean logits": full is None or full <= tolerance,
    }  # comparisons with NaN are false, so NaN fails
    return tuple(name for name, passed in checks.items() if not passed)


def _sites(fired: dict[str, Tensor]) -> dict[str, list[str]]:
    """The hook points of each kind of site, in forward order."""
    found: dict[str, list[str]] = {}
    for name in fired:
        found.setdefault(_site(name), []).append(name)
    return found


def _attention(model: Hookable, name: str) -> str:
    if not name.startswith("blocks."):
        return ""
    kinds = getattr(model.cfg, "attn_types", None)
    return kinds[int(name.split(".")[1])] if kinds else "global"


def _site(name: str) -> str:
    return name.split(".", 2)[2] if name.startswith("blocks.") else name


def _largest(change: Tensor) -> float:
    return float(change.abs().max())
