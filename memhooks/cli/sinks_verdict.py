"""What `memhooks sinks` says in words, and what it may not say."""

from collections.abc import Mapping, Sequence
from typing import Any

from memhooks.cli.tables import shown

_FEWEST = 0.05


def verdict(tables: Mapping[str, Any]) -> str:
    """One sentence for each question."""
    words = [_massive(tables), _sinks(tables), _rare_tokens(tables), _coincidence(tables)]
    for site in tables["units"]:
        words.append(_held(site, tables["held"].get(site, []), tables["contrast"].get(site, [])))
    return " ".join(words)


def mean_of(value: object) -> float:
    """The first of [mean, low, high]."""
    return float(value[0]) if isinstance(value, list) and value[0] is not None else 0.0


def _massive(tables: Mapping[str, Any]) -> str:
    n = sum(tables["n_massive"].values())
    top = max((row for row in tables["massive"] if row["set"] == "memorized"), key=lambda row: row["ratio"])
    return (
        f"{n or 'No'} massive unit{'' if n == 1 else 's'} by the published definition; what stands out most is "
        f"{top['largest']:.1f}, {top['ratio']:.0f} times the median ({top['site']} L{top['layer']}, "
        f"unit {top['unit']})."
    )


def _sinks(tables: Mapping[str, Any]) -> str:
    heads = tables["heads"]
    if all(row["memorized"][1] is None for row in heads):
        return "Sink heads: open, as one paragraph (or near-duplicates of one) has no interval."
    sinks = [row for row in heads if row["is_sink"]]
    far = [row["head_name"] for row in sinks if not row["local"]]
    return (
        f"Sink heads (more than 0.3 on position 0, and more than uniform attention): {len(sinks)} of {len(heads)}, "
        f"{len(far)} of them in global layers{': ' + ', '.join(far[:10]) if far else ''}."
    )


def _rare_tokens(tables: Mapping[str, Any]) -> str:
    with_it, without = (set(tables["rare_token_heads"][key]) for key in ("all keys", "without position 0"))
    changed = sorted(with_it ^ without)
    return (
        f"Rare-token heads: {len(with_it)} with position 0, {len(without)} without it; {len(changed)} change "
        f"({', '.join(changed[:10]) or 'none'})."
    )


def _coincidence(tables: Mapping[str, Any]) -> str:
    rows = tables["coincidence"]
    found = [f"{row['pair']} ({row['spearman_within']:+.2f})" for row in rows if row["p_corrected"] <= _FEWEST]
    return (
        f"Correlated within layers (p <= .05, times {len(rows)} questions): "
        f"{'; '.join(found) or 'nothing that was asked'}."
    )


def _held(site: str, rows: Sequence[Mapping[str, Any]], contrast: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return f"Outstanding units of {site}: not held, as one cluster of paragraphs has no other half."
    lost = "; ".join(
        f"{row['set']}'s mean {mean_of(row['nll_rise']):+.2f} (matched units {mean_of(row['nll_rise_matched']):+.2f}, "
        f"random {mean_of(row['nll_rise_random']):+.2f})"
        for row in rows
    )
    return f"Outstanding units of {site} held, NLL rise: {lost}. {_contrast(contrast)}"


def _contrast(contrast: Sequence[Mapping[str, Any]]) -> str:
    """Whether memorized text loses more: only if it does whosever mean is taken."""
    if not contrast:
        return "Without a control nothing is said of memorized text."
    each = ", ".join(f"{row['reference']} {shown(row['nll_rise'])}" for row in contrast)
    signs = {_sign(row["nll_rise"]) for row in contrast}
    if signs == {1}:
        said = "memorized text loses more than the control, whosever mean is taken"
    elif signs == {-1}:
        said = "memorized text loses less than the control, whosever mean is taken"
    else:
        said = "no claim, as it depends on whose mean is taken"
    return f"Memorized minus control, at the mean of: {each}: {said}."


def _sign(ends: Sequence[float | None]) -> int:
    """+1 or -1 where the whole interval is on one side of 0."""
    _, low, high = ends
    if low is None or high is None:
        return 0
    return int(low > 0) - int(high < 0)
