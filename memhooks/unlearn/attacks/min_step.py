"""A change large enough to survive rounding: every moved weight moves by at least one code step."""

from dataclasses import replace

import torch

from memhooks.errors import InputError
from memhooks.model.components import component_parameters
from memhooks.model.loading import HookedModel
from memhooks.model.provenance import model_hash
from memhooks.unlearn.attacks.rounding import LARGEST, Format, code_step
from memhooks.unlearn.delta import Delta
from memhooks.unlearn.unlearning import restored


def rounded_up(delta: Delta, model: HookedModel, to: Format) -> Delta:
    """The same change in the same direction, with every moved weight moved by one code step or more.

    Weights of which the delta moves nothing stay. A weight's step is that of its row as the delta leaves it (at the
    least: a row whose largest weight grows by this has larger steps still).

    Args:
        delta: the change, not applied.
        model: that it was made from.
        to: `int8` or `int4`.

    Raises:
        InputError: a format without a fixed step, or a delta of another model.
    """
    if to not in LARGEST:
        raise InputError(f"only {' and '.join(LARGEST)} have a fixed step, got {to!r}")
    weights = component_parameters(model)
    new = {}
    with delta.applied(model):
        for name, own in delta.indices.items():
            weight = weights[name].detach()
            step = code_step(name, weight, to).expand_as(weight).flatten()[own.long().to(weight.device)].cpu()
            change = delta.new[name] - delta.old[name]
            new[name] = torch.where(
                change == 0, delta.old[name], delta.old[name] + change.sign() * change.abs().maximum(step)
            )
    with restored(model), torch.no_grad():
        for name, own in delta.indices.items():
            weights[name].view(-1)[own.long().to(weights[name].device)] = new[name].to(weights[name].device)
        after = model_hash(model)
    return replace(delta, new=new, after=after, about={**delta.about, "min_step": to})
