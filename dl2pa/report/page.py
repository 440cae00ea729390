"""One page with everything, which needs neither network nor server: tables that sort, plots that answer the pointer.

plotly.js (5 MB, in the page) draws: values under the pointer, zoom and rows that can be switched off come with it.
"""

import html
import textwrap
from collections.abc import Mapping, Sequence

from dl2pa.report.draw import MARKERS
from dl2pa.report.figures import WORDS, Figure, Series
from dl2pa.report.tables import Table, notes, text

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 1100px; padding: 0 1em; color: #222; }
table { border-collapse: collapse; margin: .5em 0 1.5em; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { padding: .25em .7em; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; white-space: normal; }
th { cursor: pointer; border-bottom: 2px solid #888; } th[data-way="1"]::after { content: " ▲"; }
th[data-way="-1"]::after { content: " ▼"; } .wide { overflow-x: auto; } .plot { height: 430px; margin-bottom: 1.5em; }
ul { color: #555; font-size: 13px; } h3 { font-size: 16px; font-weight: normal; margin: 0; }
"""
# Sorts by data-value, which is the mean, or by the text of the first column; what is empty comes last either way.
_SORT = """
for (const head of document.querySelectorAll("th")) head.onclick = () => {
  const table = head.closest("table"), at = head.cellIndex, way = head.dataset.way === "-1" ? 1 : -1;
  for (const other of table.querySelectorAll("th")) delete other.dataset.way;
  head.dataset.way = way;
  const value = row => row.cells[at].dataset.value;
  const rows = [...table.tBodies[0].rows].sort((a, b) => {
    if (at === 0) return way * b.cells[0].textContent.localeCompare(a.cells[0].textContent);
    if (!value(a) || !value(b)) return (value(a) ? 0 : 1) - (value(b) ? 0 : 1);
    return way * (value(a) - value(b));
  });
  table.tBodies[0].append(...rows);
};
"""


def page(tables: Sequence[Table], figures: Sequence[Figure], style: Mapping[str, tuple[str, str]]) -> str:
    """The page's HTML."""
    from plotly.offline import get_plotlyjs

    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><title>DL2PA results</title>",
        f"<style>{_STYLE}</style>",
    ]
    parts += ["<h1>Results</h1><ul>", *(f"<li>{html.escape(note)}</li>" for note in notes(tables)), "</ul>"]
    parts += [_table(table) for table in tables]
    parts.append(f"<script>{get_plotlyjs()}</script>")
    parts += [_plot(figure, style) for figure in figures]
    return "\n".join([*parts, f"<script>{_SORT}</script></html>\n"])


def _table(table: Table) -> str:
    lines = [f"<h2>{html.escape(table.title)}</h2><div class=wide><table><thead><tr><th>method</th>"]
    lines += [f"<th>{html.escape(heading)}</th>" for heading in table.headings()]
    lines.append("</tr></thead><tbody>")
    for row in table.rows:
        lines.append(f"<tr><td>{html.escape(row)}</td>")
        for column in table.columns:
            cell = table.cells.get((row, column))
            mean = None if cell is None else cell.mean()
            value = "" if mean is None else f" data-value={mean:.4f}"
            lines.append(f"<td{value}>{html.escape(text(table, row, column))}</td>")
        lines.append("</tr>")
    return "".join([*lines, "</tbody></table></div>"])


def _plot(figure: Figure, style: Mapping[str, tuple[str, str]]) -> str:
    import plotly.graph_objects as go

    if figure.kind == "map":
        hover = f"{figure.y} %{{y}}<br>{figure.x} %{{x}}<br>{figure.unit} %{{z}}<extra></extra>"
        colours = "Turbo" if figure.unit == "prototype" else "Viridis"
        traces = [
            go.Heatmap(
                z=figure.values, x=figure.columns, y=figure.rows, colorscale=colours, hovertemplate=hover,
                colorbar={"title": figure.unit},
            )
        ]  # fmt: skip
    else:
        traces = [_trace(series, figure, *style[series.label]) for series in figure.series]
    drawn = go.Figure(traces)
    drawn.update_layout(margin_t=30, template="simple_white", xaxis_title=figure.x, yaxis_title=figure.y)
    if figure.kind == "map":
        drawn.update_layout(yaxis={"type": "category", "autorange": "reversed"}, xaxis={"type": "category"})
    elif figure.log_x:
        drawn.update_xaxes(type="log")
        if ticks := figure.ticks():
            drawn.update_xaxes(tickvals=ticks, ticktext=[f"{tick:g}" for tick in ticks])
    elif figure.kind == "points":
        drawn.update_layout(yaxis={"scaleanchor": "x"}, xaxis={"constrain": "domain"})
    elif figure.kind == "line":
        drawn.update_xaxes(dtick=max(1, max(len(series.x) for series in figure.series) // 10))  # whole epochs
    inner = drawn.to_html(full_html=False, include_plotlyjs=False, div_id=figure.name, config={"displaylogo": False})
    return f"<h3>{html.escape(figure.title)}</h3><div class=plot>{inner}</div>"


# matplotlib's markers as plotly names them; bars of a second round of colours are hatched.
_SYMBOLS = dict(
    zip(MARKERS, ("circle", "square", "diamond", "triangle-down", "triangle-up", "cross", "star", "x"), strict=True)
)


def _trace(series: Series, figure: Figure, colour: str, marker: str) -> "object":
    import plotly.graph_objects as go

    deviations = [0.0 if value is None else value for value in series.deviation]
    bars = {"type": "data", "array": deviations, "visible": any(deviations)} if deviations else None
    words = [
        f"{word}{'' if deviation is None else f', ± {deviation:.2f}'}"
        for word, deviation in zip(
            series.text or [""] * len(series.y), series.deviation or [None] * len(series.y), strict=True
        )
    ]
    name = "<br>".join(textwrap.wrap(series.label, 50))  # a long legend takes its room from the plot
    hover = f"{series.label}<br>{figure.x} %{{x}}<br>{figure.y} %{{y:.2f}}<br>%{{text}}<extra></extra>"
    if figure.kind == "bar":
        return go.Bar(
            x=series.x, y=series.y, error_y=bars, name=name, hovertext=words,
            marker={"color": colour, "pattern": {"shape": "" if marker == MARKERS[0] else "/"}},
            hovertemplate=hover.replace("%{text}", "%{hovertext}"),
        )  # fmt: skip
    worded = figure.kind == "points" and len(words) <= WORDS
    mode = "markers+text" if worded else "lines+markers" if figure.kind == "line" else "markers"
    return go.Scatter(
        x=series.x, y=series.y, error_y=bars, name=name, mode=mode, text=words, hovertemplate=hover,
        marker={"color": colour, "symbol": _SYMBOLS[marker], "size": 7}, textposition="top center",
        cliponaxis=not worded,
    )  # fmt: skip
