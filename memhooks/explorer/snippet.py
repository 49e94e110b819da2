"""The few lines of Python that come to the same numbers as the widget, by public functions."""

from memhooks.explorer.state import State


def snippet(state: State, *, control: str | None) -> str:
    """Python that reproduces the state: it prints EM and NLL of the paragraph and, if there is one, of the control.

    It wants `model`, `paragraph` and whatever `control` names, as `explore` was given them.

    Args:
        state: what is changed.
        control: Python for the control paragraphs.
    """
    texts = {"paragraph": "paragraph.select([0])"} | ({} if control is None else {"control": "others"})
    block = [line for name in texts for line in _measuring(name)]
    if state.heads:
        how = 'how="mean", means=means, ' if state.how == "mean" else ""
        opening = f"with memhooks.ablated(model, {how}heads={list(state.heads)}):"
        block = [opening, *(f"    {line}" for line in block)]
    lines = [
        *_imports(state),
        *([] if control is None else [f"others = {control}"]),
        *(line for name, source in texts.items() for line in _changing(state, name, source)),
        *(['means = activation_means(model, others, sites="z", over="positions")'] if _uses_means(state) else []),
        *block,
    ]
    return "\n".join(lines) + "\n"


def _uses_means(state: State) -> bool:
    return bool(state.heads) and state.how == "mean"


def _imports(state: State) -> list[str]:
    return [
        *(["import torch", ""] if state.replaced else []),
        "import memhooks",
        *(["from memhooks.model.means import activation_means"] if _uses_means(state) else []),
        "",
    ]


def _changing(state: State, name: str, source: str) -> list[str]:
    lines = [f"changed_{name} = {source}"]
    if state.replaced:
        positions, tokens = (list(one) for one in zip(*state.replaced, strict=True))
        lines += [
            f"tokens = changed_{name}.tokens.clone()",
            f"tokens[:, {positions}] = torch.tensor({tokens})",
            f"changed_{name} = memhooks.Paragraphs(tokens, changed_{name}.n_prefix, ids=changed_{name}.ids)",
        ]
    return lines


def _measuring(name: str) -> list[str]:
    return [
        f"found = memhooks.recitation(model, changed_{name})",
        f'print("{name}: EM", float(found["exact_match"].mean()), "NLL", float(found["nll"].mean()))',
    ]
