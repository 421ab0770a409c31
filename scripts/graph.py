"""Graphs in the editor's own file format, written node by node."""

from __future__ import annotations

import json
import re
from typing import Any

from . import client

Socket = tuple[int, int]


class Graph:
    """A graph in the editor's own file format (0.4), built node by node in the order in which they run."""

    def __init__(self, object_info: dict[str, Any], view: tuple[float, int, int]) -> None:
        self.object_info = object_info
        self.nodes: list[dict[str, Any]] = []
        self.links: list[list[Any]] = []
        self.groups: list[dict[str, Any]] = []
        self.view = view

    def node(
        self,
        kind: str,
        place: tuple[int, int, int, int],
        title: str = "",
        sockets: dict[str, Socket] | None = None,
        colour: dict[str, str] | None = None,
        **values: Any,
    ) -> int:
        """Adds a node at (x, y, width, height); ``sockets`` are its links by input name, ``values`` its widgets."""
        info = self.object_info[kind]
        node = self._blank(kind, place, title, colour)
        node["properties"] = {"cnr_id": _pack_of(info), "Node name for S&R": kind}
        node["widgets_values"] = widget_values(info, values)
        node["inputs"] = self._inputs(node["id"], info, sockets or {})
        node["outputs"] = [
            {"name": name, "type": kind, "slot_index": i, "links": []}
            for i, (name, kind) in enumerate(zip(info["output_name"], info["output"], strict=True))
        ]
        return int(node["id"])

    def note(self, place: tuple[int, int, int, int], title: str, text: str) -> None:
        node = self._blank("MarkdownNote", place, title, {"color": "#432", "bgcolor": "#000"})
        node["widgets_values"] = [text]

    def group(self, title: str, bounding: tuple[int, int, int, int], colour: str = "#3f789e") -> None:
        entry = {"id": len(self.groups) + 1, "title": title, "bounding": list(bounding), "color": colour}
        self.groups.append({**entry, "font_size": 24, "flags": {}})

    def _blank(self, kind: str, place: tuple[int, int, int, int], title: str, colour: Any) -> dict[str, Any]:
        number = len(self.nodes) + 1
        node: dict[str, Any] = {"id": number, "type": kind, "pos": list(place[:2]), "size": list(place[2:])}
        node |= {"flags": {}, "order": number - 1, "mode": 0, "inputs": [], "outputs": []}
        node |= {"title": title} if title else {}
        node |= {"properties": {}, "widgets_values": [], **(colour or {})}
        self.nodes.append(node)
        return node

    def _inputs(self, number: int, info: dict[str, Any], sockets: dict[str, Socket]) -> list[dict[str, Any]]:
        """Sockets first and then widgets, as the editor saves them; both can be linked."""
        widgets = [name for name, _, _ in client.widget_inputs(info)]
        slots: list[dict[str, Any]] = []
        for group in ("required", "optional"):
            declared = info["input"].get(group) or {}
            for name in declared:
                if name not in widgets and declared[name][0] not in client.UNSAVED:
                    optional = {"shape": 7} if group == "optional" else {}
                    slots.append({"name": name, "type": declared[name][0], **optional, "link": None})
        for name, kind, _ in client.widget_inputs(info):
            shown = "COMBO" if isinstance(kind, list) else kind
            slots.append({"name": name, "type": shown, "widget": {"name": name}, "link": None})
        for position, slot in enumerate(slots):
            if slot["name"] in sockets:
                slot["link"] = self._link(sockets[slot["name"]], number, position, slot["type"])
        return slots

    def _link(self, source: Socket, target: int, position: int, kind: str) -> int:
        number = len(self.links) + 1
        self.links.append([number, source[0], source[1], target, position, kind])
        self.nodes[source[0] - 1]["outputs"][source[1]]["links"].append(number)
        return number

    def saved(self) -> dict[str, Any]:
        scale, x, y = self.view
        return {
            "last_node_id": len(self.nodes),
            "last_link_id": len(self.links),
            "nodes": self.nodes,
            "links": self.links,
            "groups": self.groups,
            "config": {},
            "extra": {"ds": {"scale": scale, "offset": [x, y]}},
            "version": 0.4,
        }


def _pack_of(info: dict[str, Any]) -> str:
    place = info["python_module"].split(".")
    return place[1] if place[0] == "custom_nodes" else "comfy-core"


def widget_values(info: dict[str, Any], values: dict[str, Any]) -> list[Any]:
    """The values by position, with what becomes of a seed after it; defaults where none is given."""
    out: list[Any] = []
    names = set()
    for name, kind, options in client.widget_inputs(info):
        names.add(name)
        choices = kind if isinstance(kind, list) else options.get("options") or [0]
        out.append(values[name] if name in values else options.get("default", choices[0]))
        if client.has_control(name, kind, options):
            out.append("fixed")
    if set(values) - names:
        raise KeyError(f"{info['name']} has no widget {', '.join(set(values) - names)}")
    return out


def as_text(workflow: dict[str, Any]) -> str:
    """Indented JSON, with every list of plain values on one line."""
    text = json.dumps(workflow, indent=2, ensure_ascii=False)
    return re.sub(r"\[\n[^\[\]{}]+\n *\]", lambda found: _one_line(found.group()), text) + "\n"


def _one_line(text: str) -> str:
    return re.sub(r"\n *", " ", text).replace("[ ", "[", 1).removesuffix(" ]") + "]"
