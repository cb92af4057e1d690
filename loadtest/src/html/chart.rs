//! Plots as inline SVG: lines over time or over percentiles, axes with round numbers, phases as bands. Colors come
//! from the page's style, so that one picture serves light and dark.

use std::fmt::Write as _;

use super::escaped;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 76.0;
const RIGHT: f64 = 32.0;
const TOP: f64 = 30.0;
const BOTTOM: f64 = 40.0;
/// Lines that the style has colors for.
pub(super) const COLORS: usize = 6;

/// A line.
pub(super) struct Series {
    pub(super) name: String,
    pub(super) points: Vec<(f64, f64)>,
    /// Which of the style's colors.
    pub(super) color: usize,
    /// Told apart from another line of the same color.
    pub(super) dashed: bool,
}

impl Series {
    fn class(&self) -> String {
        format!("s{}{}", self.color % COLORS, if self.dashed { " dashed" } else { "" })
    }
}

/// How one direction is divided.
pub(super) struct Axis {
    pub(super) label: &'static str,
    pub(super) log: bool,
    pub(super) show: fn(f64) -> String,
    /// Where the marks stand, if not at round numbers.
    pub(super) marks: Option<Vec<(f64, String)>>,
}

/// A plot.
pub(super) struct Chart {
    pub(super) title: &'static str,
    pub(super) x: Axis,
    pub(super) y: Axis,
    pub(super) series: Vec<Series>,
    /// From, to and name of what is shaded.
    pub(super) bands: Vec<(f64, f64, String)>,
}

/// Where numbers lie between the ends of an axis.
struct Scale {
    low: f64,
    high: f64,
    log: bool,
}

impl Scale {
    fn of(values: impl Iterator<Item = f64>, log: bool, from_zero: bool) -> Self {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in values.filter(|value| value.is_finite() && (!log || *value > 0.0)) {
            (low, high) = (low.min(value), high.max(value));
        }
        if low > high {
            (low, high) = if log { (1.0, 10.0) } else { (0.0, 1.0) };
        }
        if log {
            (low, high) = (10_f64.powf(low.log10().floor()), 10_f64.powf(high.log10().ceil()));
            high = high.max(low * 10.0);
        } else if from_zero {
            (low, high) = (0.0, if high > 0.0 { high * 1.08 } else { 1.0 });
        } else if high <= low {
            high = low + 1.0;
        }
        Self { low, high, log }
    }

    /// From 0 to 1.
    fn place(&self, value: f64) -> f64 {
        let share = if self.log {
            (value.max(self.low).log10() - self.low.log10()) / (self.high.log10() - self.low.log10())
        } else {
            (value - self.low) / (self.high - self.low)
        };
        share.clamp(0.0, 1.0)
    }

    /// Round numbers between the ends.
    fn marks(&self) -> Vec<f64> {
        if self.log {
            let (from, to) = (self.low.log10().round() as i32, self.high.log10().round() as i32);
            return (from..=to).map(|power| 10_f64.powi(power)).collect();
        }
        let rough = (self.high - self.low) / 5.0;
        let power = 10_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|times| times * power).into_iter().find(|step| *step >= rough);
        let step = step.unwrap_or(power * 10.0);
        let first = (self.low / step).ceil() as i64;
        (first..=first + 10).map(|at| at as f64 * step).take_while(|mark| *mark <= self.high).collect()
    }
}

impl Chart {
    /// The whole figure, or a word where there is nothing to draw.
    pub(super) fn svg(&self) -> String {
        let points = || self.series.iter().flat_map(|series| series.points.iter().copied());
        let mut out = format!("<figure><figcaption>{}</figcaption>", escaped(self.title));
        if points().count() < 2 {
            out.push_str("<p class=\"none\">not measured in this run</p></figure>");
            return out;
        }
        let ends = self.bands.iter().flat_map(|(from, to, _)| [*from, *to]);
        let x = match &self.x.marks {
            Some(marks) => {
                let all = marks.iter().map(|(at, _)| *at).chain(points().map(|(x, _)| x));
                let high = all.fold(1.0, f64::max);
                Scale { low: 1.0, high, log: true }
            }
            None => Scale::of(points().map(|(x, _)| x).chain(ends).chain([0.0]), self.x.log, false),
        };
        let y = Scale::of(points().map(|(_, y)| y), self.y.log, true);
        let _ =
            write!(out, "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">", escaped(self.title));
        self.draw_bands(&mut out, &x);
        self.draw_axes(&mut out, &x, &y);
        for series in &self.series {
            draw_line(&mut out, series, &x, &y);
        }
        out.push_str("</svg><ul class=\"legend\">");
        for series in &self.series {
            let _ = write!(out, "<li class=\"{}\">{}</li>", series.class(), escaped(&series.name));
        }
        out.push_str("</ul></figure>");
        out
    }

    fn draw_bands(&self, out: &mut String, x: &Scale) {
        for (at, (from, to, name)) in self.bands.iter().enumerate() {
            let (left, right) = (across(x, *from), across(x, *to));
            let (width, height) = (right - left, HEIGHT - TOP - BOTTOM);
            let kind = if at % 2 == 0 { "band even" } else { "band odd" };
            let _ = write!(
                out,
                "<rect class=\"{kind}\" x=\"{left:.1}\" y=\"{TOP}\" width=\"{width:.1}\" height=\"{height}\"/>"
            );
            // A name that does not fit would lie over the next one; the table has them all.
            if width > name.chars().count() as f64 * 6.6 {
                let middle = left + width / 2.0;
                let above = TOP - 8.0;
                let _ = write!(out, "<text class=\"name\" x=\"{middle:.1}\" y=\"{above}\">{}</text>", escaped(name));
            }
        }
    }

    fn draw_axes(&self, out: &mut String, x: &Scale, y: &Scale) {
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        for mark in y.marks() {
            let at = down(y, mark);
            let (label, text) = (escaped(&(self.y.show)(mark)), at + 4.0);
            let _ = write!(out, "<line class=\"grid\" x1=\"{LEFT}\" y1=\"{at:.1}\" x2=\"{right}\" y2=\"{at:.1}\"/>");
            let _ = write!(out, "<text class=\"y\" x=\"{}\" y=\"{text:.1}\">{label}</text>", LEFT - 8.0);
        }
        let marks = match &self.x.marks {
            Some(marks) => marks.clone(),
            None => x.marks().into_iter().map(|mark| (mark, (self.x.show)(mark))).collect(),
        };
        for (mark, label) in marks {
            let (at, label) = (across(x, mark), escaped(&label));
            let _ = write!(out, "<line class=\"grid\" x1=\"{at:.1}\" y1=\"{TOP}\" x2=\"{at:.1}\" y2=\"{bottom}\"/>");
            let _ = write!(out, "<text class=\"x\" x=\"{at:.1}\" y=\"{}\">{label}</text>", bottom + 16.0);
        }
        let _ = write!(out, "<line class=\"axis\" x1=\"{LEFT}\" y1=\"{bottom}\" x2=\"{right}\" y2=\"{bottom}\"/>");
        let middle = (LEFT + right) / 2.0;
        let _ = write!(out, "<text class=\"x\" x=\"{middle}\" y=\"{}\">{}</text>", HEIGHT - 6.0, escaped(self.x.label));
        let _ = write!(out, "<text class=\"unit\" x=\"4\" y=\"14\">{}</text>", escaped(self.y.label));
    }
}

fn across(x: &Scale, value: f64) -> f64 {
    LEFT + x.place(value) * (WIDTH - LEFT - RIGHT)
}

fn down(y: &Scale, value: f64) -> f64 {
    HEIGHT - BOTTOM - y.place(value) * (HEIGHT - TOP - BOTTOM)
}

fn draw_line(out: &mut String, series: &Series, x: &Scale, y: &Scale) {
    let class = series.class();
    let drawn: Vec<String> = series
        .points
        .iter()
        .filter(|(_, value)| value.is_finite() && (!y.log || *value > 0.0))
        .map(|(at, value)| format!("{:.1},{:.1}", across(x, *at), down(y, *value)))
        .collect();
    if let [only] = drawn.as_slice()
        && let Some((at, height)) = only.split_once(',')
    {
        let _ = write!(out, "<circle class=\"{class}\" cx=\"{at}\" cy=\"{height}\" r=\"3\"/>");
    } else if !drawn.is_empty() {
        let _ = write!(out, "<polyline class=\"{class}\" points=\"{}\"/>", drawn.join(" "));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(scale: &Scale, value: f64) -> f64 {
        (scale.place(value) * 100.0).round()
    }

    #[test]
    fn a_log_axis_covers_whole_powers_and_a_linear_one_begins_at_nothing() {
        let log = Scale::of([30.0, 4_000.0].into_iter(), true, true);
        assert_eq!((log.low, log.high, log.marks()), (10.0, 10_000.0, vec![10.0, 100.0, 1_000.0, 10_000.0]));
        assert_eq!((place(&log, 10.0), place(&log, 100.0), place(&log, 1e9)), (0.0, 33.0, 100.0));
        let linear = Scale::of([50.0, 100.0].into_iter(), false, true);
        assert_eq!((linear.low, linear.marks()), (0.0, vec![0.0, 50.0, 100.0]));
        assert_eq!(place(&linear, 54.0), 50.0);
    }

    #[test]
    fn figures_that_do_not_exist_draw_nothing_and_break_nothing() {
        for values in [vec![], vec![f64::NAN], vec![0.0], vec![f64::INFINITY]] {
            for log in [true, false] {
                let scale = Scale::of(values.iter().copied(), log, true);
                assert!(scale.low < scale.high && scale.marks().len() < 20, "{values:?} {log}");
                assert!(scale.place(f64::MAX).is_finite());
            }
        }
    }
}
