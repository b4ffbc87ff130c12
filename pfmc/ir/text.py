"""The textual form of a Graph: what ``--print-after`` prints and golden tests compare."""

from __future__ import annotations

from pfmc.errors import printable
from pfmc.ir.attention import Attention
from pfmc.ir.graph import Absorbed, Affine, Contraction, Conv, Gemm, Graph, HostNode, MatrixVector, Node


def render(graph: Graph) -> str:
    """The graph, one line per node."""
    lines = [f"graph @{printable(graph.name)} ({', '.join(_value(graph, v) for v in graph.inputs)})"]
    lines += _nodes(graph)
    lines.append(f"  return {', '.join(f'%{printable(v)}' for v in graph.outputs)}")
    return "\n".join(lines) + "\n"


def _nodes(graph: Graph) -> list[str]:
    """A line per node; what an attention consists of stands where the last of it stands, its contractions inside."""
    owner: dict[str, int] = {}
    for number, attention in enumerate(graph.attentions):
        for name in (*attention.members, *attention.projections.values()):
            owner.setdefault(name, number)
    inside: dict[int, list[Node]] = {}
    for node in graph.nodes:
        if node.name in owner:
            inside.setdefault(owner[node.name], []).append(node)
    lines: list[str] = []
    for node in graph.nodes:
        if node.name not in owner:
            lines.append(f"  {_node(graph, node)}")
        elif inside[owner[node.name]][-1] is node:
            found = owner[node.name]
            lines += [f"  {line}" for line in _attention(graph, graph.attentions[found], inside[found])]
    return lines


def _attention(graph: Graph, attention: Attention, nodes: list[Node]) -> list[str]:
    """The operation as one, and the contractions that are its own."""
    names = {node.name for node in nodes}
    made = [value for node in nodes for value in node.outputs]
    read = dict.fromkeys(value for node in nodes for value in node.inputs if value not in made)
    used = {value for node in graph.nodes if node.name not in names for value in node.inputs} | {*graph.outputs}
    given = ", ".join(_value(graph, value) for value in made if value in used)
    taken = ", ".join(f"%{printable(value)}" for value in read)
    sizes = f"heads={attention.heads} key-heads={attention.key_heads} head-size={attention.head_size}"
    words = " ".join((sizes, *attention.flags))
    roles = " ".join(f"{role}=@{printable(name)}" for role, name in attention.projections.items())
    own = [f"  {_node(graph, node)}" for node in nodes if isinstance(node, Contraction | Absorbed)]
    return [f"{given} = attention @{printable(attention.name)} ({taken}) {words} {roles} {{", *own, "}"]


def _value(graph: Graph, value: str) -> str:
    shape = graph.shapes.get(value)
    if shape is None:
        return f"%{printable(value)}"
    return f"%{printable(value)}: {'x'.join('?' if d is None else str(d) for d in shape)}"


def _node(graph: Graph, node: Node) -> str:
    made = ", ".join(_value(graph, v) for v in node.outputs if v)
    read = ", ".join(f"%{printable(v)}" for v in node.inputs if v)
    kind, details = _details(node)
    return f"{made} = {kind} @{printable(node.name)} ({read}){''.join(f' {d}' for d in details)}"


def _details(node: Node) -> tuple[str, list[str]]:
    if isinstance(node, HostNode):
        return f"host.{printable(node.kind)}", [f"; {printable(node.reason)}"] if node.reason else []
    if isinstance(node, Affine):
        present = [word for word, v in (("gain", node.gain), ("offset", node.offset)) if v is not None]
        return "affine", [*present, f"axis={node.axis}"]
    if isinstance(node, Absorbed):
        how = "added" if node.adds else "each"
        return "absorbed", [f"heads={node.heads} {how} {node.width} of {node.size}"]
    return _contraction(node)


def _contraction(node: Contraction) -> tuple[str, list[str]]:
    details = [str(node.matrix if isinstance(node, MatrixVector) else node.weight)]
    if isinstance(node, Gemm):
        details += [f"alpha={node.alpha:g}"] if node.alpha != 1.0 else []
        details += ["transposed"] if node.transposed else []
    if isinstance(node, Conv):
        details += [str(node.windows)] + ([f"groups={node.groups}"] if node.groups > 1 else [])
    if isinstance(node, MatrixVector) and node.windows is not None:
        details.append(str(node.windows))
    if any(part.bias is not None for part in (node.members if isinstance(node, MatrixVector) else (node,))):
        details.append("bias")
    if isinstance(node, MatrixVector) and node.input_shift is not None:
        details.append(f"shifted({node.input_shift.min()}..{node.input_shift.max()})")
    if isinstance(node, MatrixVector) and node.shares:
        details.append(f"shares(@{printable(node.shares)})")
    if len(node.replaces) > 1:
        details.append(f"replaces({', '.join(printable(name) for name in node.replaces)})")
    if isinstance(node, MatrixVector) and node.notes:
        details.append(f"; {', '.join(node.notes)}")
    return type(node).__name__.lower(), details
