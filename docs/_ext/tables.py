"""Directives that write tables from what the package declares: options, commands, presets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from tpu_tlm.config.command_table import COMMANDS
from tpu_tlm.config.options import Option, options_in
from tpu_tlm.config.presets import PRESETS


def _table(head: Sequence[str], rows: Iterable[Sequence[list[nodes.Node]]]) -> nodes.table:
    table, group = nodes.table(), nodes.tgroup(cols=len(head))
    table += group
    for width in (24, 14, 62)[: len(head)]:
        group += nodes.colspec(colwidth=width)
    top, body = nodes.thead(), nodes.tbody()
    group += [top, body]
    for part, lines in ((top, [[[nodes.Text(h)] for h in head]]), (body, list(rows))):
        for cells in lines:
            row = nodes.row()
            part += row
            for cell in cells:
                paragraph = nodes.paragraph()
                paragraph += cell
                entry = nodes.entry()
                entry += paragraph
                row += entry
    return table


def _code(text: str) -> nodes.Node:
    return nodes.literal(text, text)


def _shown(value: Any) -> str:
    if value is None or value == []:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _facts(option: Option) -> str:
    declared = option.declared
    facts = [declared.unit] if declared.unit else []
    facts += [option.range()] if option.range() else []
    if option.choices:
        facts.append(f"one of {', '.join(option.choices)}")
    if option.many:
        facts.append("a list")
    facts += [f"also --{alias}" for alias in declared.aliases]
    return "; ".join(facts)


class Options(SphinxDirective):
    """`{options} COMMAND`: a table per group of the options of a command."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """The nodes of the tables."""
        name = self.arguments[0]
        found: list[nodes.Node] = []
        for group in COMMANDS[name].groups:
            title = (group.__doc__ or "").strip().splitlines()[0]
            found.append(nodes.rubric(title, title))
            rows = []
            for option in options_in(group).values():
                facts, declared = _facts(option), option.declared
                text = declared.help + (f" ({facts})" if facts else "")
                flag = option.name.upper() if declared.positional else f"--{option.name}"
                default = "required" if declared.required else _shown(option.default)
                rows.append([[_code(flag)], [_code(default)], [nodes.Text(text)]])
            found.append(_table(["option", "default", "meaning"], rows))
        return found


class Presets(SphinxDirective):
    """`{presets}`: what each preset sets, and where it is from."""

    def run(self) -> list[nodes.Node]:
        """The nodes of the table."""
        rows = []
        for name, preset in PRESETS.items():
            values = " ".join(
                f"{n}={_shown(v)}" for n, v in {**preset.values, **preset.text}.items()
            )
            missing = f"; not here: {preset.missing}" if preset.missing else ""
            rows.append([[_code(name)], [nodes.Text(preset.source + missing)], [_code(values)]])
        return [_table(["preset", "from", "options"], rows)]


def setup(app: Any) -> dict[str, bool]:
    """Register the directives."""
    app.add_directive("options", Options)
    app.add_directive("presets", Presets)
    return {"parallel_read_safe": True}
