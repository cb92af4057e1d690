//! Results as one HTML file that needs nothing else: no script, no font, no picture from anywhere.

mod chart;
mod pages;
#[cfg(test)]
mod tests;

pub use self::pages::{diff_page, report_page};

/// Light by day, dark by night; colors that people who see few of them can tell apart (Okabe and Ito).
const STYLE: &str = "
:root{color-scheme:light dark;--paper:#fcfcfb;--ink:#1c1c1a;--dim:#66645e;--line:#dddbd4;--band:#f1efe9;
--s0:#0072b2;--s1:#d55e00;--s2:#009e73;--s3:#cc79a7;--s4:#b58900;--s5:#56b4e9;--good:#00704f;--bad:#b3261e}
@media(prefers-color-scheme:dark){:root{--paper:#171716;--ink:#e9e7e1;--dim:#a09d94;--line:#3a3936;--band:#222120;
--s0:#5eb1e8;--s1:#ff9b57;--s2:#4fd1a5;--s3:#e6a3c8;--s4:#e8c547;--s5:#a5d8f7;--good:#5fd3a5;--bad:#ff8a80}}
*{box-sizing:border-box}
body{margin:0 auto;padding:2rem 1.25rem 4rem;max-width:76rem;background:var(--paper);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif}
h1{font-size:1.7rem;margin:0 0 .2rem}h2{font-size:1.15rem;margin:2.2rem 0 .6rem}
p{margin:.2rem 0 .8rem}.dim,.none{color:var(--dim)}
.verdict{display:inline-block;padding:.1rem .7rem;border-radius:1rem;border:1.5px solid;font-weight:600}
.ok,.better{color:var(--good)}.bad,.worse{color:var(--bad)}.same{color:var(--dim)}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(16rem,1fr));gap:.7rem;margin:1.2rem 0}
.card{border:1px solid var(--line);border-radius:.5rem;padding:.6rem .8rem}
.card b{display:block;font-size:1.3rem;font-weight:600;font-variant-numeric:tabular-nums}
.card span{color:var(--dim);font-size:.85rem}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(34rem,100%),1fr));gap:1.6rem 2rem}
figure{margin:0}figcaption{font-weight:600;margin-bottom:.2rem}
svg{width:100%;height:auto;display:block}
svg text{fill:var(--dim);font-size:11px}svg .x,svg .name{text-anchor:middle}svg .y{text-anchor:end}
.grid{stroke:var(--line);stroke-width:1}.axis{stroke:var(--dim);stroke-width:1}
.band.even{fill:var(--band)}.band.odd{fill:none}
polyline{fill:none;stroke-width:1.8;stroke-linejoin:round}
polyline.s0{stroke:var(--s0)}polyline.s1{stroke:var(--s1)}polyline.s2{stroke:var(--s2)}
polyline.s3{stroke:var(--s3)}polyline.s4{stroke:var(--s4)}polyline.s5{stroke:var(--s5)}
polyline.dashed{stroke-dasharray:5 4;opacity:.75}.legend .dashed{opacity:.75;font-style:italic}
circle.s0{fill:var(--s0)}circle.s1{fill:var(--s1)}circle.s2{fill:var(--s2)}
circle.s3{fill:var(--s3)}circle.s4{fill:var(--s4)}circle.s5{fill:var(--s5)}
.legend{list-style:none;margin:.1rem 0 0;padding:0;display:flex;flex-wrap:wrap;gap:.2rem 1.1rem;font-size:.85rem}
.legend li::before{content:'';display:inline-block;width:1.1em;height:.22em;margin-right:.45em;vertical-align:middle}
.legend .s0::before{background:var(--s0)}.legend .s1::before{background:var(--s1)}
.legend .s2::before{background:var(--s2)}.legend .s3::before{background:var(--s3)}
.legend .s4::before{background:var(--s4)}.legend .s5::before{background:var(--s5)}
.wide{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;font-size:.86rem}
th,td{text-align:right;padding:.28rem .55rem;border-bottom:1px solid var(--line);white-space:nowrap}
th:first-child,td:first-child{text-align:left}th{color:var(--dim);font-weight:600;white-space:normal;vertical-align:bottom}
td.text{text-align:left;white-space:normal}tr.part td{font-weight:600;padding-top:.9rem}
code{font:.88em ui-monospace,'DejaVu Sans Mono',monospace}
pre{white-space:pre-wrap;overflow-wrap:anywhere;border-left:3px solid var(--bad);padding:.2rem .9rem;margin:.4rem 0}
";

/// Text that cannot be taken for markup.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c if c.is_control() => out.push('.'),
            c => out.push(c),
        }
    }
    out
}
