import pytest
import torch
from transformer_lens.hook_points import HookPoint

from memhooks.errors import InputError
from memhooks.model.audit import CUTS, NO_FULL_PATCH, SCRAMBLED, audit
from memhooks.model.hook_names import GATES
from tests.conftest import tiny_neo


class DeafPoint(HookPoint):
    """Fires its hooks on a copy and passes on what came in: the edit is lost without a word."""

    def __call__(self, x):
        super().__call__(x.clone())
        return x


class HalfDeafPoint(HookPoint):
    """Honours edits in place, but not a returned tensor."""

    def __call__(self, x):
        super().__call__(x)
        return x


def deafen(model, site, kind, layers):
    for layer in layers:
        owner = model.blocks[layer]
        *path, last = site.split(".")
        for part in path:
            owner = getattr(owner, part)
        point = kind()
        point.name = f"blocks.{layer}.{site}"
        setattr(owner, last, point)
        model.hook_dict[point.name] = point
        model.mod_dict[point.name] = point
    return model


def test_a_faithful_model_passes_every_check(model):
    result = audit(model)
    assert result
    assert not result.failed_sites
    assert str(result) == "audit passed: 72 hook points of 21 kinds, returned and in place"


def test_every_kind_of_hook_point_is_audited_but_gated_ones(model):
    sites = {name.split(".", 2)[2] if name.startswith("blocks.") else name for name in model.hook_dict}
    assert {row.site for row in audit(model).rows} == {*SCRAMBLED, *CUTS, *NO_FULL_PATCH}
    assert sites - {*SCRAMBLED, *CUTS, *NO_FULL_PATCH} == {
        *(site for site in sites if site.rsplit(".", 1)[-1] in GATES),
        "unembed.hook_in",  # what ln_final.hook_normalized becomes, and the logits themselves
        "unembed.hook_out",
    }


@pytest.mark.parametrize("site", ["attn.hook_pattern", "attn.hook_attn_scores", "attn.hook_z", "mlp.hook_post"])
def test_a_model_that_ignores_edits_fails_and_the_site_is_named(model, site):
    result = audit(deafen(model, site, DeafPoint, range(4)))
    assert not result
    assert result.failed_sites[0] == site.rsplit("hook_", 1)[-1]
    failed = [row for row in result.rows if row.failed and row.site == site]
    assert len(failed) == 8  # four layers, both ways
    assert all("edit does not reach the logits" in row.failed for row in failed)
    assert str(result).startswith(f"audit failed at {result.failed_sites[0]}")


def test_edits_ignored_in_one_layer_are_found(model):
    only_one = audit(deafen(model, "attn.hook_pattern", DeafPoint, [1]))
    assert [row.name for row in only_one.rows if row.failed] == ["blocks.1.attn.hook_pattern"] * 2
    assert {row.attention for row in only_one.rows if row.failed} == {"local"}


def test_a_returned_tensor_that_is_ignored_is_found(model):
    half = audit(deafen(model, "attn.hook_pattern", HalfDeafPoint, range(4)))
    assert {row.way for row in half.rows if row.failed} == {"returned"}
    assert half.failed_sites == ["pattern"]


def test_an_edit_that_reaches_only_one_branch_misses_the_clean_logits(model):
    """The residual stream goes on past the MLP, as in TransformerLens 4's Bridge."""
    for block in model.blocks:
        block.hook_resid_mid = HookPoint()
        block.hook_resid_mid.name = "unused"
        mlp = block.ln2
        point = model.hook_dict[next(n for n, p in model.hook_dict.items() if n.endswith("resid_mid"))]
        assert point is not None
        block._modules["ln2"] = Branch(mlp)
    for layer, block in enumerate(model.blocks):
        block.ln2.point.name = f"blocks.{layer}.hook_resid_mid"
        model.hook_dict[block.ln2.point.name] = block.ln2.point
        model.mod_dict[block.ln2.point.name] = block.ln2.point
    result = audit(model)
    assert result.failed_sites == ["resid_mid"]
    failed = [row for row in result.rows if row.failed]
    assert {row.failed for row in failed} == {("full patch misses the clean logits",)}


class Branch(torch.nn.Module):
    """Hooks what enters the MLP alone."""

    def __init__(self, norm):
        super().__init__()
        self.norm, self.point = norm, HookPoint()

    def forward(self, x):
        return self.norm(self.point(x.clone()))


def test_an_edit_that_raises_is_a_finding_with_its_error(model):
    class Raising(HookPoint):
        def __call__(self, x):
            out = super().__call__(x)
            if self.fwd_hooks and not torch.equal(out, x):
                raise RuntimeError("no edits here")
            return out

    result = audit(deafen(model, "hook_mlp_out", Raising, range(4)))
    assert "mlp_out" in result.failed_sites
    assert any(row.failed == ("raises RuntimeError",) for row in result.rows)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes_are_judged_by_their_own_precision(dtype):
    from memhooks.model.loading import load_model

    model = load_model(tiny_neo(), dtype=dtype)
    assert audit(model)
    assert audit(deafen(model, "attn.hook_pattern", DeafPoint, range(4))).failed_sites == ["pattern"]


def test_the_notebook_view_names_the_verdict(model):
    assert "audit failed at pattern" in audit(deafen(model, "attn.hook_pattern", DeafPoint, range(4)))._repr_html_()


@pytest.mark.parametrize("length", [1, 65])
def test_a_probe_the_model_cannot_read_is_refused(model, length):
    with pytest.raises(InputError, match=rf"length must lie in 2..64, got {length}"):
        audit(model, length=length)
