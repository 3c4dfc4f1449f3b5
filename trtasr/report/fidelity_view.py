"""Fidelity on probe signals as the table and the report show it."""

from collections.abc import Sequence

from trtasr.report.table import format_db
from trtasr.results import Engine, Fidelity, Judged

SHOWN = 8  # layers that a line names


def fidelity_lines(found: Sequence[Judged]) -> list[str]:
    """One line of each target: how far it is from FP32 without any audio, and the limit."""
    return [
        f"{item.target} fidelity ({item.level}, on probe signals): {item.loss:.4f} nats from FP32, "
        f"{'limit' if item.held else 'ABOVE THE LIMIT OF'} {item.limit:g}; "
        f"{100 * item.together.agreement:.2f} % of {item.together.positions} positions have the same token, "
        f"SQNR {format_db(item.together.sqnr_db)} dB"
        for item in found
    ]


def left_words(engine: Engine, found: Sequence[Judged]) -> str:
    """The layers of an engine that went back to floating point for fidelity, with the noise of each; empty for none."""
    harm = next((item.harm for item in found if item.target == engine.target), {})
    rules = {item.node: item.rule for item in engine.decisions}
    names = [f"{name} ({format_db(harm[name])} dB alone)" for name in harm if rules.get(name) == "fidelity"]
    if not names:
        return ""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f", {len(names)} left for fidelity: {', '.join(names[:SHOWN])}{more}"


def fidelity_rows(found: Sequence[Judged]) -> list[list[str]]:
    """Cells of the report's table: target, kind of probe, positions, and each measure; all kinds together first."""
    return [fidelity_row(item, one) for item in found for one in (item.together, *item.kinds)]


def fidelity_row(judged: Judged, found: Fidelity) -> list[str]:
    """The cells of one kind."""
    return [
        judged.target,
        found.kind or f"all ({'held' if judged.held else 'missed'}: at most {judged.limit:g} nats)",
        str(found.positions),
        f"{found.divergence:.4f}",
        f"{100 * found.agreement:.2f}",
        f"{100 * found.thin:.2f}",
        format_db(found.sqnr_db),
        f"{100 * found.token_error_rate:.1f}",
    ]
