"""A chain of what was made from what, drawn as a tree for the terminal or as a Mermaid diagram."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

_UNSAFE = re.compile(r'["<>{}|\[\]`#;&\\\x00-\x1f]')


@dataclass(frozen=True)
class Node:
    """One thing: `kind` is the glossary's word, `name` its id, `facts` what to say of it, `made_from` the numbers of nodes before it."""

    kind: str
    name: str
    facts: Mapping[str, object] = field(default_factory=dict[str, object])
    made_from: tuple[int, ...] = ()


def mermaid(nodes: Sequence[Node]) -> list[str]:
    """Lines of a Mermaid flow chart; characters that mean something to Mermaid or HTML are taken out of names."""
    lines = ["graph LR"]
    lines += [f'  n{number}["{safe(node.kind)}<br/>{safe(node.name)}"]' for number, node in enumerate(nodes)]
    return lines + [f"  n{source} --> n{number}" for number, node in enumerate(nodes) for source in node.made_from]


def tree(nodes: Sequence[Node]) -> list[str]:
    """Lines of a tree whose root is the last that was made; what a thing was made from is below it."""
    used = {source for node in nodes for source in node.made_from}
    roots = [number for number in range(len(nodes)) if number not in used]
    lines: list[str] = []
    for root in reversed(roots):
        _grow(nodes, root, "", "", lines)
    return lines


def safe(text: object) -> str:
    """Text that ends no label and starts no markup."""
    return _UNSAFE.sub(" ", str(text))


def _grow(nodes: Sequence[Node], number: int, first: str, rest: str, lines: list[str]) -> None:
    node = nodes[number]
    said = ", ".join(f"{name} {value}".strip() for name, value in node.facts.items() if value not in ("", None))
    lines.append(f"{first}{node.kind}: {node.name}" + (f" ({said})" if said else ""))
    for place, source in enumerate(node.made_from):
        is_last = place == len(node.made_from) - 1
        _grow(nodes, source, rest + ("└─ " if is_last else "├─ "), rest + ("   " if is_last else "│  "), lines)
