"""What a benchmark of a sweep found, row by row, and the table of all."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass

from rich.table import Table

from benchmarks.floor import Cost


@dataclass(frozen=True)
class Peer:
    """Another way to the same numbers.

    Attributes:
        name: what it is.
        cost: scaled to the whole sweep.
        sample: what was run.
        aim: how many times faster memhooks is to be; None for a figure that stands beside.
    """

    name: str
    cost: Cost
    sample: str
    aim: float | None


@dataclass(frozen=True)
class Outcome:
    """One sweep.

    Attributes:
        sweep: what was swept.
        setting: of which model.
        ours: time of memhooks, scaled to the whole sweep, and its peak memory.
        sample: what memhooks ran of it.
        rate: the machine's matrix rate in FLOP/s.
        floor: seconds of what no exact method can avoid at that rate, scaled too; None where there is no count.
        peers: the other ways.
        agreement: how far the ways agree where they ran the same cells.
    """

    sweep: str
    setting: str
    ours: Cost
    sample: str
    rate: float
    floor: float | None
    peers: list[Peer]
    agreement: str

    def plain(self) -> dict:
        """For JSON."""
        return asdict(self)


def from_plain(plain: dict) -> Outcome:
    """Back from JSON."""
    peers = [Peer(**(peer | {"cost": Cost(**peer["cost"])})) for peer in plain["peers"]]
    return Outcome(**(plain | {"ours": Cost(**plain["ours"]), "peers": peers}))


COLUMNS = (
    "sweep",
    "floor, s",
    "memhooks, s",
    "share of floor rate",
    "peer",
    "peer, s",
    "ratio",
    "aim",
    "peak GB, ours / peer",
    "run of ours; of the peer's",
    "agreement",
)


def table(outcomes: Iterable[Outcome], title: str) -> Table:
    """One line for each sweep and peer; every number of seconds is of the whole sweep."""
    outcomes = list(outcomes)
    rates = [one.rate / 1e9 for one in outcomes]
    drawn = Table(title=f"{title}, {min(rates):.0f} to {max(rates):.0f} GFLOP/s in a matrix product", show_lines=True)
    for heading in COLUMNS:
        drawn.add_column(heading)
    settings = list(dict.fromkeys(one.setting for one in outcomes))
    for setting in settings:
        drawn.add_row(f"[bold]{setting}[/bold]")
        for one in (one for one in outcomes if one.setting == setting):
            for peer in one.peers:
                drawn.add_row(*_cells(one, peer))
    return drawn


def _cells(one: Outcome, peer: Peer) -> list[str]:
    floor, share = ("-", "-") if one.floor is None else (_brief(one.floor), f"{one.floor / one.ours.seconds:.0%}")
    ratio = peer.cost.seconds / one.ours.seconds
    met = "" if peer.aim is None else f">= {peer.aim:g} {'met' if ratio >= peer.aim else 'MISSED'}"
    peaks = " / ".join("-" if cost.peak is None else f"{cost.peak:.1f}" for cost in (one.ours, peer.cost))
    return [
        one.sweep,
        floor,
        _brief(one.ours.seconds),
        share,
        peer.name,
        _brief(peer.cost.seconds),
        f"{ratio:.1f}" if ratio >= 2 else f"{ratio:.2f}",
        met,
        peaks,
        f"{one.sample}; {peer.sample}",
        one.agreement,
    ]


def _brief(seconds: float) -> str:
    if seconds < 0.1:
        return f"{seconds:.2g}"
    return f"{seconds:.2f}" if seconds < 10 else f"{seconds:.0f}"
