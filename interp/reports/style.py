"""How a report looks."""

from __future__ import annotations

CSS = """
:root { --ink: #282828; --soft: #5f5f5f; --line: #dfe3e8; --head: #eef1f5; --link: #2166ac; }
* { box-sizing: border-box; }
body { margin: 0; background: #f6f7f9; color: var(--ink);
       font: 15px/1.55 "Open Sans", Helvetica, Arial, sans-serif; }
main { max-width: 1320px; margin: 0 auto; padding: 32px 32px 64px; }
h1 { margin: 0 0 4px; font-size: 26px; line-height: 1.25; }
h2 { margin: 0 0 8px; font-size: 19px; }
.subtitle { margin: 0; color: var(--soft); }
nav { margin: 16px 0 24px; }
nav a { color: var(--link); text-decoration: none; margin-right: 20px; }
nav a:hover { text-decoration: underline; }
section { background: white; border: 1px solid var(--line); border-radius: 6px;
          padding: 20px 24px; margin: 0 0 20px; }
section p { max-width: 86ch; margin: 0 0 12px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 14px; margin: 0 0 14px; }
th { background: var(--head); font-weight: 600; }
th, td { padding: 5px 14px; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
.grouped { font-size: 13px; }
.grouped th, .grouped td { padding: 5px 6px; }
.grouped td:first-child { white-space: nowrap; }
.group { text-align: center; border-bottom: 0; border-left: 1px solid var(--line); }
.prepared { margin: 0 0 14px; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
footer { color: var(--soft); font-size: 13px; }
@media print { body { background: white; } nav { display: none; } section { border: 0; padding: 0; } }
"""
