"""Grafana dashboards as plain typed values: a dashboard is rows of panels, a panel is queries with their legends; JSON falls out.

Panels flow from left to right, 24 columns, as wide as they say; nobody places them by hand. The schema is that of Grafana 10 and later.
https://grafana.com/docs/grafana/latest/dashboards/build-dashboards/view-dashboard-json-model/
"""

import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

COLUMNS = 24
_SCHEMA_VERSION = 39
_DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


@dataclass(frozen=True)
class Panel:
    """One panel: `queries` maps legend (Grafana's `{{label}}` words) to PromQL; `needs` says why a run on a laptop has no data for it."""

    title: str
    queries: Mapping[str, str]
    unit: str = "short"
    kind: Literal["timeseries", "stat", "table"] = "timeseries"
    width: int = 8
    height: int = 8
    description: str = ""
    needs: str = ""
    limit: float | None = None  # a line where an alert fires


@dataclass(frozen=True)
class Row:
    """A heading with its panels."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Dashboard:
    """One dashboard; its uid is part of its address and must not change."""

    uid: str
    title: str
    description: str
    rows: tuple[Row, ...]

    @property
    def panels(self) -> Iterator[Panel]:
        """Every panel."""
        return (panel for row in self.rows for panel in row.panels)


def dashboard_json(dashboard: Dashboard) -> str:
    """The JSON that Grafana's sidecar reads; the same bytes for the same dashboard."""
    content: dict[str, Any] = {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "description": dashboard.description,
        "tags": ["stablerep"],
        "schemaVersion": _SCHEMA_VERSION,
        "version": 1,
        "editable": False,
        "graphTooltip": 1,  # one crosshair in all panels
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "utc",
        "annotations": {"list": [_alerts()]},
        "templating": {"list": [_datasource(), _namespace()]},
        "links": [{"type": "dashboards", "tags": ["stablerep"], "title": "stablerep", "asDropdown": False, "keepTime": True}],
        "panels": list(_placed(dashboard)),
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _placed(dashboard: Dashboard) -> Iterator[dict[str, Any]]:
    y = 0
    for row in dashboard.rows:
        yield {
            "id": _id(dashboard, row.title),
            "type": "row",
            "title": row.title,
            "collapsed": False,
            "gridPos": {"x": 0, "y": y, "w": COLUMNS, "h": 1},
            "panels": [],
        }
        y += 1
        x = tallest = 0
        for panel in row.panels:
            if x + panel.width > COLUMNS:
                x, y, tallest = 0, y + tallest, 0
            yield _panel(dashboard, row, panel, {"x": x, "y": y, "w": panel.width, "h": panel.height})
            x, tallest = x + panel.width, max(tallest, panel.height)
        y += tallest


def _panel(dashboard: Dashboard, row: Row, panel: Panel, position: dict[str, int]) -> dict[str, Any]:
    targets = [
        {
            "refId": chr(ord("A") + i),
            "datasource": _DATASOURCE,
            "expr": query,
            "legendFormat": legend,
            "range": panel.kind == "timeseries",
            "instant": panel.kind != "timeseries",
            **({"format": "table"} if panel.kind == "table" else {}),
        }
        for i, (legend, query) in enumerate(panel.queries.items())
    ]
    note = f"Needs {panel.needs}." if panel.needs else ""
    return {
        "id": _id(dashboard, f"{row.title}/{panel.title}"),
        "type": panel.kind,
        "title": panel.title,
        "description": " ".join(filter(None, (panel.description, note))),
        "datasource": _DATASOURCE,
        "gridPos": position,
        "targets": targets,
        "fieldConfig": {"defaults": _field(panel), "overrides": []},
        "options": _OPTIONS[panel.kind],
    }


def _field(panel: Panel) -> dict[str, Any]:
    custom = {"lineWidth": 2, "fillOpacity": 8, "showPoints": "never", "thresholdsStyle": {"mode": "line" if panel.limit else "off"}}
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.limit:
        steps.append({"color": "red", "value": panel.limit})
    field: dict[str, Any] = {"unit": panel.unit, "thresholds": {"mode": "absolute", "steps": steps}}
    if panel.kind == "timeseries":
        field["custom"] = custom
    return field


_OPTIONS: dict[str, dict[str, Any]] = {
    "timeseries": {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
    "stat": {"colorMode": "value", "graphMode": "none", "textMode": "auto", "reduceOptions": {"calcs": ["lastNotNull"], "values": False}},
    "table": {"showHeader": True},
}


def _id(dashboard: Dashboard, name: str) -> int:
    """A number that stays when panels are added before it, so that links and snapshots keep their panel."""
    return zlib.crc32(f"{dashboard.uid}/{name}".encode()) & 0x7FFFFFFF


def _alerts() -> dict[str, Any]:
    return {
        "name": "Alerts",
        "enable": True,
        "iconColor": "red",
        "datasource": _DATASOURCE,
        "expr": 'ALERTS{alertname=~"Stablerep.+", alertstate="firing"}',
        "titleFormat": "{{alertname}}",
    }


def _datasource() -> dict[str, Any]:
    return {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus", "current": {}, "hide": 0}


def _namespace() -> dict[str, Any]:
    query = "label_values(up, namespace)"
    return {
        "name": "namespace",
        "label": "Namespace",
        "type": "query",
        "datasource": _DATASOURCE,
        "definition": query,
        "query": {"query": query, "refId": "namespace"},
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
        "refresh": 2,
        "sort": 1,
    }
