"""What of the site is written while it is built: from the schema, the commands, docstrings and files at the root."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterable, Iterator
from html import escape
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent


def on_config(config: Any) -> Any:
    """Pages that the navigation does not know yet are not lost."""
    known = set(_pages_of(config.nav))
    more = [file.name for file in sorted((ROOT / "docs").glob("*.md")) if file.name not in known]
    if more:
        config.nav.append({"More": more})
    return config


def _pages_of(nav: Any) -> Iterator[str]:
    for entry in nav:
        value = next(iter(entry.values())) if isinstance(entry, dict) else entry
        if isinstance(value, str):
            yield value
        else:
            yield from _pages_of(value)


def on_files(files: Any, config: Any) -> Any:
    """The pages that nobody writes by hand."""
    from mkdocs.structure.files import File

    for name, write in PAGES.items():
        files.append(File.generated(config, f"reference/{name}.md", content=write()))
    return files


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """The theme would fetch from another host what lets the search run from a disk."""
    return _at_home(output, page.url.count("/"))


def on_post_template(output: str, template_name: str, **_: Any) -> str:
    """Pages of the theme, such as that for what is not found."""
    return _at_home(output, 0) if template_name.endswith(".html") else output


def _at_home(output: str, depth: int) -> str:
    return output.replace("https://unpkg.com/iframe-worker/shim", "../" * depth + "assets/worker.js")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """A link to a file of the repository that is no page names the file instead."""
    return re.sub(r"\[([^\]]+)\]\(\.\./([^)]+)\)", r"\1 (`\2`)", markdown)


# --- recipes -----------------------------------------------------------------------------------------


def recipe() -> str:
    """Every section and key: what it takes, its default, what it does."""
    from unicscale.recipe import Recipe

    schema = Recipe.model_json_schema(by_alias=True)
    held = schema["$defs"]
    out = [
        "# Every key of a recipe",
        "Written from the schema that `unicscale check --schema` prints. A recipe needs `schema`, `out`, `data`, "
        "`teachers` and `stages`; everything else has a default. Keys of a section within a section are written "
        "with dots.",
        "## At the top",
        _table("", schema, held),
    ]
    for key, said in schema["properties"].items():
        sections = list(_sections(said, held))
        if not sections:
            continue
        out.append(f"## {key}")
        for title, one in sections:
            several = len(sections) > 1
            path = f"{key}.NAME" if key == "teachers" else f"{key}[n]" if key in ("stages",) else key
            if several:
                out.append(f"### {key}: {title}")
            out += _described(path, one, held, set())
    return "\n\n".join(part for part in out if part) + "\n"


def _described(path: str, section: dict[str, Any], held: dict[str, Any], above: set[str]) -> list[str]:
    """A section's sentence, its keys, and then the sections inside it."""
    out = [escape(section.get("description", ""), quote=False), _table(path, section, held)]
    for key, said in section.get("properties", {}).items():
        for title, inner in _sections(said, held):
            name = inner.get("title", title)
            if name in above:
                continue
            kind = f": {title}" if len(list(_sections(said, held))) > 1 else ""
            out.append(f"#### {path}.{key}{kind}")
            out += _described(f"{path}.{key}", inner, held, above | {name})
    return out


def _table(path: str, section: dict[str, Any], held: dict[str, Any]) -> str:
    rows = ["| key | takes | default | |", "|---|---|---|---|"]
    needed = section.get("required", [])
    for key, said in section.get("properties", {}).items():
        default = "needed" if key in needed else _default(said)
        name = f"{path}.{key}" if path else key
        rows.append(f"| `{name}` | {_takes(said, held)} | {default} | {_cell(said.get('description', ''))} |")
    return "\n".join(rows) if len(rows) > 2 else ""


def _sections(said: dict[str, Any], held: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The sections that a key may hold, by their kind or their name."""
    for one in _options(said):
        if "$ref" in one:
            name = one["$ref"].rpartition("/")[2]
            found = held[name]
            kind = found.get("properties", {}).get("kind", {})
            if "properties" in found:
                yield str(kind.get("const", kind.get("default", name))), found
        for inner in (one.get("items"), one.get("additionalProperties")):
            if isinstance(inner, dict):
                yield from _sections(inner, held)


def _options(said: dict[str, Any]) -> Iterable[dict[str, Any]]:
    for word in ("anyOf", "oneOf", "allOf"):
        if word in said:
            return [inner for one in said[word] for inner in _options(one)]
    return [said]


def _takes(said: dict[str, Any], held: dict[str, Any]) -> str:
    return ", ".join(dict.fromkeys(_kind(one, held) for one in _options(said) if _kind(one, held)))


def _kind(one: dict[str, Any], held: dict[str, Any]) -> str:
    if "$ref" in one:
        inner = held[one["$ref"].rpartition("/")[2]]
        return "a section" if "properties" in inner else _takes(inner, held)
    if "const" in one:
        return f"`{_value(one['const'])}`"
    if "enum" in one:
        return ", ".join(f"`{_value(word)}`" for word in one["enum"])
    bounds = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    limits = " ".join(f"{sign} {one[word]:g}" for word, sign in bounds.items() if word in one)
    words = {
        "integer": "a whole number", "number": "a number", "string": "text", "boolean": "`true`, `false`",
        "null": "`null`", "object": "a mapping", "array": "a list",
    }  # fmt: skip
    kind = words.get(one.get("type", ""), "")
    if one.get("type") == "array" and isinstance(one.get("items"), dict):
        kind = f"a list of: {_takes(one['items'], held)}"
    return f"{kind} {limits}".strip()


def _default(said: dict[str, Any]) -> str:
    """A section's own table tells its defaults."""
    value = said.get("default", "")
    return "" if (isinstance(value, dict) and value) or value == "" else f"`{_value(value)}`"


def _value(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=1000).replace("\n...", "").strip()


def _cell(text: str) -> str:
    return escape(" ".join(text.split()), quote=False).replace("|", "\\|")


# --- commands, errors, Python ------------------------------------------------------------------------


def commands() -> str:
    """What `--help` says of each, without a terminal around it."""
    import typer

    from unicscale.cli import app

    out = ["# Every command", "`unicscale COMMAND --help` says the same on a terminal."]
    out += _commands("unicscale", typer.main.get_command(app))
    return "\n\n".join(out) + "\n"


def _commands(name: str, command: Any) -> Iterator[str]:
    inner = getattr(command, "commands", {})
    for word, one in inner.items():
        yield from _commands(f"{name} {word}", one)
    if inner:
        return
    yield f"## {name}"
    yield escape(inspect.cleandoc(command.help or ""), quote=False)
    rows = ["| | |", "|---|---|"]
    for parameter in command.params:
        label = (
            ", ".join(parameter.opts)
            if parameter.opts[0].startswith("-")
            else (parameter.metavar or str(parameter.name).upper())
        )
        said = _cell(getattr(parameter, "help", "") or "")
        default = parameter.default
        if default not in (None, False, [], ()) and not callable(default) and parameter.opts[0].startswith("-"):
            said += f" Default: `{default}`."
        rows.append(f"| `{label}` | {said} |")
    yield "\n".join(rows)


def errors() -> str:
    """The exit codes, with the classes behind them."""
    from unicscale import errors as module

    tree = ast.parse(Path(module.__file__ or "").read_text())
    rows = ["| exit code | in Python | what it is |", "|---|---|---|", "| 0 | | Done. |"]
    rows.append("| 1 | any other exception | A mistake of unicscale's own: a traceback is printed. Please report it. |")
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name != "UserError":
            found = getattr(module, node.name)
            code = 0 if node.name == "ReachedLimit" else found.exit_code
            rows.append(f"| {code} | `{node.name}` | {_cell(ast.get_docstring(node) or '')} |")
    return (
        "# Exit codes\n\nA script can tell by the exit code what kind of thing went wrong; the message says where, "
        "what, and the way out. [When something goes wrong](../troubleshooting.md) lists what people meet most.\n\n"
        + "\n".join(rows) + "\n"
    )  # fmt: skip


def python() -> str:
    """The public names, by their signatures and docstrings."""
    out = ["# Python", "These names are as stable as the commands. [From Python](../python.md) shows them at work."]
    for name in ("load", "distil", "Standardizer", "Features"):
        out += _documented(f"unicscale.{name}", getattr(import_module("unicscale"), name))
    for place in ("unicscale.interop:Model", "unicscale.contracts:Seen", "unicscale.contracts:Loss",
                  "unicscale.contracts:TeacherSpec", "unicscale.teacher.plugin:Teacher"):  # fmt: skip
        module, _, attribute = place.partition(":")
        found = getattr(import_module(module), attribute, None)
        if found is not None:
            out += _documented(place.replace(":", "."), found)
    return "\n\n".join(out) + "\n"


def _documented(name: str, thing: Any) -> Iterator[str]:
    yield f"## {name.rpartition('.')[2]}"
    try:
        signature = str(inspect.signature(thing))
    except (TypeError, ValueError):
        signature = "(...)"
    signature = re.sub(r"(: |-> )(['\"])(.*?)\2", r"\1\3", signature)
    module, _, short = name.rpartition(".")
    yield f"```python\nfrom {module} import {short}\n\n{short}{signature}\n```"
    yield escape(inspect.getdoc(thing) or "", quote=False)
    rows = ["| | |", "|---|---|"]
    for word, member in vars(thing).items() if inspect.isclass(thing) else ():
        if not word.startswith("_") and (inspect.isfunction(member) or isinstance(member, property)):
            said = (inspect.getdoc(member) or "").split("\n\n")[0]
            rows.append(f"| `{word}{'()' if inspect.isfunction(member) else ''}` | {_cell(said)} |")
    if len(rows) > 2:
        yield "\n".join(rows)


def changelog() -> str:
    """As it stands at the root."""
    return (ROOT / "CHANGELOG.md").read_text()


def citation() -> str:
    """How to cite the method and the software."""
    held = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    lines = [f"# Citing\n\n{held['message']}\n\n| | |\n|---|---|", f"| software | {held['title']} {held['version']} |"]
    for one in held.get("references", []):
        people = ", ".join(f"{a['given-names']} {a['family-names']}" for a in one["authors"])
        where = ", ".join(i["value"] for i in one.get("identifiers", []))
        lines.append(f"| method | {people}: *{one['title']}*, {one['year']}. {where} |")
    return "\n".join(lines) + "\n\nThe file `CITATION.cff` holds the same for tools.\n"


PAGES = {
    "recipe": recipe, "commands": commands, "errors": errors, "python": python, "changelog": changelog,
    "citation": citation,
}  # fmt: skip
