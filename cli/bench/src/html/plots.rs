//! The plots of the report, as SVG that takes its text colour from the page.

use plotters::coord::combinators::BindKeyPoints;
use plotters::coord::ranged1d::{AsRangedCoord, Ranged, ValueFormatter};
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

/// One line of a plot.
#[derive(Debug)]
pub struct Series {
    pub colour: (u8, u8, u8),
    pub points: Vec<(f64, f64)>,
}

/// What a plot shows.
pub struct Plot<'a> {
    /// Read out where the picture cannot be seen.
    pub label: &'a str,
    pub x: &'a str,
    pub y: &'a str,
    pub series: &'a [Series],
    /// The text at a point of the horizontal axis.
    /// Where the horizontal axis has labels, if the plot reaches there.
    pub x_ticks: Vec<f64>,
    pub x_text: &'a dyn Fn(&f64) -> String,
    pub y_text: &'a dyn Fn(&f64) -> String,
    /// Whether the vertical axis is logarithmic; else it begins at 0.
    pub log_y: bool,
    /// Whether single measurements are marked.
    pub marks: bool,
}

const SIZE: (u32, u32) = (580, 360);
const FONT_SIZE: i32 = 16;

/// Stands for the page's text colour until the picture is done; plotters knows no such colour.
const INK: RGBColor = RGBColor(1, 2, 3);
const INK_SVG: &str = "#010203";

/// How much of the ink the grid has.
const GRID: f64 = 0.15;

/// Draws a plot. `None` without two points to draw between.
pub fn draw(plot: &Plot<'_>) -> Option<String> {
    let points = || plot.series.iter().flat_map(|series| &series.points);
    let (x_low, x_high) = bounds(points().map(|point| point.0))?;
    let (y_low, y_high) = bounds(points().map(|point| point.1))?;
    if x_low >= x_high || y_high <= 0.0 {
        return None;
    }
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        let ticks = |all: &[f64], low: f64, high: f64| -> Vec<f64> {
            all.iter()
                .copied()
                .filter(|tick| (low..=high).contains(tick))
                .collect()
        };
        let x = (x_low..x_high)
            .log_scale()
            .with_key_points(ticks(&plot.x_ticks, x_low, x_high));
        // Room at the edges, so that no line runs along them.
        let drawn = match plot.log_y {
            true => {
                let (low, high) = (y_low.max(1e-3) / 1.3, y_high * 1.3);
                let y =
                    (low..high)
                        .log_scale()
                        .with_key_points(ticks(&steps(low, high), low, high));
                lines(plot, &root, x, y)
            }
            false => lines(plot, &root, x, RangedCoordf64::from(0.0..y_high * 1.1)),
        };
        drawn.ok()?;
    }
    let ink = svg.replace(INK_SVG, "currentColor");
    let named = format!(
        "<svg role=\"img\" aria-label=\"{}\" ",
        super::escape(plot.label)
    );
    Some(ink.replacen("<svg ", &named, 1))
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn lines<X, Y>(
    plot: &Plot<'_>,
    root: &Area<'_>,
    x: impl AsRangedCoord<Value = f64, CoordDescType = X>,
    y: impl AsRangedCoord<Value = f64, CoordDescType = Y>,
) -> Result<(), Box<dyn std::error::Error>>
where
    X: Ranged<ValueType = f64> + ValueFormatter<f64>,
    Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    let font = ("sans-serif", FONT_SIZE).into_font().color(&INK);
    let mut chart = ChartBuilder::on(root)
        .margin(10)
        .margin_right(24)
        .x_label_area_size(54)
        .y_label_area_size(84)
        .build_cartesian_2d(x, y)?;
    chart
        .configure_mesh()
        .x_desc(plot.x)
        .y_desc(plot.y)
        .x_label_formatter(&plot.x_text)
        .y_label_formatter(&plot.y_text)
        .label_style(font.clone())
        .axis_desc_style(font)
        .axis_style(INK.mix(0.5))
        .bold_line_style(INK.mix(GRID))
        .light_line_style(TRANSPARENT)
        .x_labels(8)
        .y_labels(7)
        .draw()?;
    for series in plot.series {
        let (r, g, b) = series.colour;
        let style = RGBColor(r, g, b).stroke_width(2);
        chart.draw_series(LineSeries::new(series.points.iter().copied(), style))?;
        if plot.marks {
            let mark = |point: &(f64, f64)| Circle::new(*point, 4, RGBColor(r, g, b).filled());
            chart.draw_series(series.points.iter().map(mark))?;
        }
    }
    root.present()?;
    Ok(())
}

/// Labels of a logarithmic axis: 1, 2, 5, 10, …, fewer where it spans much.
fn steps(low: f64, high: f64) -> Vec<f64> {
    let factors: &[f64] = match high / low {
        span if span > 1e4 => &[1.0],
        span if span > 1.5 => &[1.0, 2.0, 5.0],
        _ => &[1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0],
    };
    let (first, last) = (low.log10().floor() as i32, high.log10().ceil() as i32);
    let decade = |exponent: i32| {
        factors
            .iter()
            .map(move |factor| factor * 10f64.powi(exponent))
    };
    (first..=last).flat_map(decade).collect()
}

/// One in 1, 10, 100, … messages.
pub fn decades() -> Vec<f64> {
    (0..10).map(|exponent| 10f64.powi(exponent)).collect()
}

fn bounds(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values
        .filter(|value| value.is_finite())
        .fold(None, |bounds, value| match bounds {
            None => Some((value, value)),
            Some((low, high)) => Some((f64::min(low, value), f64::max(high, value))),
        })
}

/// A row of dots, one a round, with the interval of the median, on a scale that all rows of a table
/// share.
#[derive(Debug)]
pub struct Strip<'a> {
    pub ratios: &'a [f64],
    pub low: f64,
    pub high: f64,
    pub median: f64,
    pub goal: Option<f64>,
    pub colour: (u8, u8, u8),
    /// The ratios at either end; those beyond stand there too.
    pub scale: (f64, f64),
}

const STRIP_WIDTH: f64 = 240.0;
const STRIP_HEIGHT: f64 = 26.0;

impl Strip<'_> {
    /// Draws it. The dashed line is 1, the green one the goal.
    pub fn draw(&self) -> String {
        let (least, most) = self.scale;
        let part = |ratio: f64| ((ratio - least) / (most - least).max(1e-9)).clamp(0.0, 1.0);
        let at = |ratio: f64| 6.0 + part(ratio) * (STRIP_WIDTH - 12.0);
        let (r, g, b) = self.colour;
        let colour = format!("rgb({r},{g},{b})");
        let middle = STRIP_HEIGHT / 2.0;
        let upright = |x: f64, style: &str| {
            format!(
                "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"1\" y2=\"{:.0}\" {style}/>",
                STRIP_HEIGHT - 1.0
            )
        };
        let mut svg = format!(
            "<svg class=\"strip\" role=\"img\" aria-label=\"ratios of the rounds\" width=\"{STRIP_WIDTH}\" \
             height=\"{STRIP_HEIGHT}\" viewBox=\"0 0 {STRIP_WIDTH} {STRIP_HEIGHT}\">"
        );
        svg += &upright(
            at(1.0),
            "stroke=\"currentColor\" stroke-opacity=\".5\" stroke-dasharray=\"3 3\"",
        );
        svg += &format!(
            "<line x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{middle}\" y2=\"{middle}\" stroke=\"{colour}\" stroke-width=\"4\" stroke-opacity=\".55\"/>",
            at(self.low),
            at(self.high)
        );
        for &ratio in self.ratios {
            svg += &format!(
                "<circle cx=\"{:.1}\" cy=\"{middle}\" r=\"3\" fill=\"none\" stroke=\"{colour}\" stroke-opacity=\".75\"/>",
                at(ratio)
            );
        }
        svg += &format!(
            "<circle cx=\"{:.1}\" cy=\"{middle}\" r=\"4.5\" fill=\"{colour}\"/>",
            at(self.median)
        );
        if let Some(goal) = self.goal {
            svg += &upright(at(goal), "style=\"stroke:var(--good)\" stroke-width=\"2\"");
        }
        svg + "</svg>"
    }
}

/// A logarithmic axis of frequencies: 1, 10, 100, … messages of which one is slower.
pub fn percentile(one_in: &f64) -> String {
    let digits = one_in.log10().round() as usize;
    match digits {
        0 => "0 %".to_owned(),
        1 => "90 %".to_owned(),
        digits => format!(
            "99{}{} %",
            if digits > 2 { "." } else { "" },
            "9".repeat(digits - 2)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_named_by_how_rare_they_are() {
        for (one_in, name) in [
            (1.0, "0 %"),
            (10.0, "90 %"),
            (100.0, "99 %"),
            (1000.0, "99.9 %"),
        ] {
            assert_eq!(percentile(&one_in), name);
        }
        assert_eq!(percentile(&10_000.0), "99.99 %");
    }

    #[test]
    fn a_plot_has_the_page_s_ink_and_nothing_from_elsewhere() {
        let series = [Series {
            colour: (200, 10, 10),
            points: vec![(1.0, 5.0), (10.0, 7.0)],
        }];
        let plot = Plot {
            label: "a <b>",
            x: "x",
            y: "y",
            x_ticks: decades(),
            series: &series,
            x_text: &|x| format!("{x}"),
            y_text: &|y| format!("{y}"),
            log_y: true,
            marks: true,
        };
        let svg = draw(&plot).expect("two points");
        assert!(
            svg.contains("currentColor") && !svg.contains(INK_SVG),
            "{svg}"
        );
        assert!(svg.contains("aria-label=\"a &lt;b&gt;\""), "{svg}");
        assert!(svg.contains("#C80A0A"), "{svg}");
        let one = [Series {
            colour: (0, 0, 0),
            points: vec![(1.0, 1.0)],
        }];
        assert!(
            draw(&Plot {
                series: &one,
                ..plot
            })
            .is_none()
        );
    }
}
