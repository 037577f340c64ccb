// How the panel looks: OHIF's own colours, which reach into it as custom properties. Nothing else.

export const STYLE = `
:host {
  --ground: hsl(var(--background, 236 62% 5%));
  --raised: hsl(var(--muted, 234 64% 10%));
  --line: hsl(var(--input, 236 45% 22%));
  --text: hsl(var(--foreground, 0 0% 98%));
  --quiet: hsl(var(--muted-foreground, 200 46% 65%));
  --accent: hsl(var(--primary, 214 98% 60%));
  --light: hsl(var(--highlight, 191 74% 63%));
  --good: #4ade80; --bad: #f87171; --mark: #ffb020;
  display: block; height: 100%; overflow-y: auto; box-sizing: border-box; padding: 4px 10px 0;
  background: var(--ground); color: var(--text); font: 13px/1.35 Inter, system-ui, sans-serif;
  scrollbar-width: thin; scrollbar-color: var(--line) transparent;
}
section { padding: 6px 0 7px; border-bottom: 1px solid var(--line); }
section:last-of-type { border-bottom: 0; }
h3 { margin: 0 0 6px; font-size: 11px; font-weight: 600; letter-spacing: .06em; text-transform: uppercase; color: var(--quiet); }
h3 .aside { float: right; font-weight: 400; letter-spacing: 0; text-transform: none; }
h3 b { color: var(--light); text-transform: none; }
button, select {
  font: inherit; color: var(--text); background: var(--raised); border: 1px solid var(--line); border-radius: 5px;
  padding: 5px 8px; min-height: 28px; cursor: pointer;
}
button:hover:not(:disabled, [aria-disabled=true]), select:hover { border-color: var(--light); }
button:focus-visible, select:focus-visible, input:focus-visible { outline: 2px solid var(--light); outline-offset: 1px; }
button:disabled, button[aria-disabled=true] { opacity: .45; cursor: default; }
button.main { background: var(--accent); border-color: var(--accent); color: #fff; font-weight: 600; }
button.on { background: hsl(214 98% 60% / .25); border-color: var(--light); color: var(--light); }
button.plain { background: none; border: 0; padding: 0 4px; min-height: 0; color: var(--quiet); }
.row { display: flex; gap: 6px; align-items: center; }
.row + .row, .row + button, button + .row { margin-top: 6px; }
.row > .grow, .row > .even { flex: 1 1 0; min-width: 0; }
.quiet { color: var(--quiet); }
.small { font-size: 12px; }
label.slide { display: grid; grid-template-columns: 62px 1fr 54px; gap: 6px; align-items: center; margin-top: 6px; color: var(--quiet); }
label.slide output { text-align: right; white-space: nowrap; color: var(--text); font-variant-numeric: tabular-nums; }
input[type=range] { width: 100%; accent-color: var(--accent); height: 16px; }
.images { display: grid; grid-template-columns: 1fr 1fr; gap: 5px; }
.image { display: grid; grid-template-columns: auto 1fr; column-gap: 6px; text-align: left; padding: 4px 8px; }
.image b { font-weight: 600; }
.image .state { text-align: right; font-size: 12px; color: var(--quiet); white-space: nowrap; overflow: hidden; text-overflow: ellipsis; }
.image.active { border-color: var(--light); box-shadow: inset 0 0 0 1px var(--light); }
.image.unusable { grid-column: 1 / -1; } .image.unusable .state { white-space: normal; }
.image .failed { color: var(--bad); } .image .done { color: var(--good); } .image .changed { color: var(--mark); } .image .busy { color: var(--light); }
.verdict { font-weight: 600; } .verdict.complete { color: var(--good); } .verdict.incomplete { color: var(--bad); }
.bar { height: 5px; border-radius: 3px; background: var(--raised); overflow: hidden; margin: 6px 0 4px; }
.bar i { display: block; height: 100%; background: var(--light); }
.bar.unknown i { width: 35%; animation: pass 1.4s linear infinite; }
@keyframes pass { from { margin-left: -35%; } to { margin-left: 100%; } }
.notice { border: 1px solid var(--light); border-radius: 5px; padding: 7px 9px; margin-bottom: 6px; background: var(--raised); display: flex; gap: 6px; }
.notice.error { border-color: var(--bad); }
.notice .grow { flex: 1; overflow-wrap: anywhere; }
ul { margin: 4px 0 0; padding-left: 18px; }
button.plain.chosen { color: var(--light); text-decoration: underline; text-underline-offset: 3px; }
.slide + .row { margin-top: 7px; }
.label { flex: 0 0 46px; }
kbd { font: 11px/1 ui-monospace, monospace; opacity: .7; margin-left: 4px; }
footer { padding-top: 4px; text-align: center; font-size: 11px; color: var(--quiet); }
.last { position: sticky; bottom: 0; z-index: 1; background: var(--ground); border-top: 1px solid var(--line); padding: 7px 0 4px; }
.last button.main { min-height: 34px; }
`;
