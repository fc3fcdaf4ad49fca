"""The worker's automaton as a Mermaid diagram, for docs/ARCHITECTURE.md: ``python -m procman.core.diagram``."""

from __future__ import annotations

from procman.core.worker import INITIAL, TRANSITIONS, State


def worker_diagram() -> str:
    """One line for each pair of states, with the inputs that lead from one to the other."""
    lines = ["stateDiagram-v2", *(f"    [*] --> {state.value}" for state in INITIAL)]
    pairs: dict[tuple[State, State], list[str]] = {}
    for (before, what), after in TRANSITIONS.items():
        pairs.setdefault((before, after), []).append(what.value)
    lines += [f"    {before.value} --> {after.value}: {', '.join(what)}" for (before, after), what in pairs.items()]
    lines.append(f"    {State.GONE.value} --> [*]")
    return "\n".join(lines)


if __name__ == "__main__":
    print(worker_diagram())
