//! The report: one HTML file that needs nothing else.

use std::fmt::Write;

use super::metric::Metric;
use super::result::{CaseResult, ContenderResult, Results};
use super::rounds::disturbed_line;

mod plots;
mod tables;

use evring_cli_common::units;
use plots::{Plot, Series};

const STYLE: &str = include_str!("style.css");

/// Colours that stay apart for most eyes, on white and on black (after Okabe and Ito).
const COLOURS: [(&str, (u8, u8, u8)); 9] = [
    ("evring", (213, 94, 0)),
    ("libevent", (0, 114, 178)),
    ("haproxy", (204, 121, 167)),
    ("haproxy-splice", (148, 82, 170)),
    ("nginx", (0, 158, 115)),
    ("tokio", (230, 159, 0)),
    ("monoio", (86, 180, 233)),
    ("epoll", (110, 150, 40)),
    ("floor", (128, 128, 128)),
];

/// For names that are not among those.
const OTHER_COLOURS: [(u8, u8, u8); 3] = [(160, 100, 60), (220, 50, 120), (60, 130, 130)];

/// The whole document.
pub fn document(results: &Results) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write!(
        out,
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>evring bench</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n\
         <h1>evring bench</h1>\n<p class=\"faint\">{}<br>{}</p>\n\
         <p class=\"faint\"><code>evring {}</code></p>\n",
        escape(&results.machine.at),
        escape(&results.machine.describe()),
        escape(&results.machine.command),
    );
    if results.interrupted {
        out += "<p class=\"open\">Interrupted: what follows is what was finished.</p>\n";
    }
    out += &tables::goals(results);
    out += &scaling(results);
    for case in &results.cases {
        out += &section(case);
    }
    out += &footer(results);
    out + "</body>\n</html>\n"
}

/// Text that stays text.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            c => out.push(c),
        }
    }
    out
}

fn colour(name: &str) -> (u8, u8, u8) {
    // A variant such as `evring × 64` has its server's colour.
    let server = name.split(" ×").next().unwrap_or(name);
    let known = COLOURS.iter().find(|(known, _)| *known == server);
    known.map_or_else(
        || {
            let sum: usize = name.bytes().map(usize::from).sum();
            OTHER_COLOURS[sum % OTHER_COLOURS.len()]
        },
        |(_, colour)| *colour,
    )
}

/// Figures over the number of connections, where several were measured.
fn scaling(results: &Results) -> String {
    let mut out = String::new();
    let mut groups: Vec<(&str, usize)> = Vec::new();
    for case in &results.cases {
        if let (Some(_), Some(bytes)) = (case.connections, case.message_bytes)
            && !groups.contains(&(case.suite.as_str(), bytes))
        {
            groups.push((&case.suite, bytes));
        }
    }
    for (suite, bytes) in groups {
        let mut cases: Vec<&CaseResult> = results
            .cases
            .iter()
            .filter(|case| case.suite == suite && case.message_bytes == Some(bytes))
            .filter(|case| case.connections.is_some())
            .collect();
        cases.sort_by_key(|case| case.connections);
        let plots: Vec<String> = [
            (Metric::CpuUsPerMessage, "CPU time a message", "µs of CPU"),
            (Metric::MessagesPerSecond, "Messages a second", "messages/s"),
            (Metric::P50Us, "Median latency", "p50"),
            (Metric::P99Us, "p99 latency", "p99"),
        ]
        .into_iter()
        .filter_map(|(metric, caption, y)| scaling_plot(&cases, metric, caption, y))
        .collect();
        if plots.is_empty() {
            continue;
        }
        let names = names(&cases);
        let _ = write!(
            out,
            "<h2>Scaling: {} of {bytes} B</h2>\n{}<div class=\"plots\">{}</div>\n",
            escape(suite),
            legend(names.iter().map(String::as_str)),
            plots.concat()
        );
    }
    out
}

fn names(cases: &[&CaseResult]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for contender in cases.iter().flat_map(|case| &case.contenders) {
        if !names.contains(&contender.name) {
            names.push(contender.name.clone());
        }
    }
    names
}

fn scaling_plot(cases: &[&CaseResult], metric: Metric, caption: &str, y: &str) -> Option<String> {
    let point = |case: &&CaseResult, name: &str| {
        let contender = case.contenders.iter().find(|c| c.name == *name)?;
        let figure = contender.figures.get(&metric)?;
        Some((f64::from(case.connections?), figure.median))
    };
    let series: Vec<Series> = names(cases)
        .iter()
        .map(|name| Series {
            colour: colour(name),
            points: cases.iter().filter_map(|case| point(case, name)).collect(),
        })
        .collect();
    let is_time = matches!(metric, Metric::P50Us | Metric::P99Us);
    let ticks: Vec<f64> = cases
        .iter()
        .filter_map(|case| case.connections.map(f64::from))
        .collect();
    let plot = Plot {
        label: &format!("{caption} over connections"),
        x: "connections",
        y,
        series: &series,
        x_ticks: ticks,
        x_text: &|x| units::grouped(x.round() as u64),
        y_text: &|y| match is_time {
            true => micros(*y),
            false => number(*y),
        },
        log_y: is_time,
        marks: true,
    };
    figure(caption, plots::draw(&plot)?)
}

fn section(case: &CaseResult) -> String {
    let mut out = format!(
        "<h2 id=\"{0}\">{0}</h2>\n<p>{1}; {2}.</p>\n",
        escape(&case.name),
        escape(&case.title),
        case.extent()
    );
    if let Some(line) = disturbed_line(case) {
        let _ = writeln!(out, "<p class=\"open\">{line}.</p>");
    }
    out += &tables::figures(case);
    out += &tables::ratios(case);
    let curves: Vec<&ContenderResult> = case
        .contenders
        .iter()
        .filter(|c| c.latency_curve.len() > 1)
        .collect();
    if let Some(plot) = latency_plot(&curves) {
        out += &legend(curves.iter().map(|contender| contender.name.as_str()));
        let _ = writeln!(out, "<div class=\"plots\">{plot}</div>");
    }
    out
}

fn latency_plot(contenders: &[&ContenderResult]) -> Option<String> {
    let series: Vec<Series> = contenders
        .iter()
        .map(|contender| Series {
            colour: colour(&contender.name),
            points: contender
                .latency_curve
                .iter()
                .map(|point| (1.0 / (1.0 - point.quantile).max(1e-9), point.us))
                .collect(),
        })
        .collect();
    let plot = Plot {
        label: "latency over the part of messages that are faster",
        x: "part of the messages that are at least as fast",
        y: "latency",
        series: &series,
        x_ticks: plots::decades(),
        x_text: &plots::percentile,
        y_text: &|us| micros(*us),
        log_y: true,
        marks: false,
    };
    figure(
        "Latency by percentile, median of the rounds",
        plots::draw(&plot)?,
    )
}

fn figure(caption: &str, svg: String) -> Option<String> {
    Some(format!(
        "<figure><figcaption>{}</figcaption>{svg}</figure>\n",
        escape(caption)
    ))
}

fn legend<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let entry = |name: &str| {
        let (r, g, b) = colour(name);
        format!(
            "<li><i style=\"background:rgb({r},{g},{b})\"></i>{}</li>",
            escape(name)
        )
    };
    format!(
        "<ul class=\"legend\">{}</ul>\n",
        names.map(entry).collect::<String>()
    )
}

fn footer(results: &Results) -> String {
    let settings = &results.settings;
    let mut out = String::from("<footer>\n");
    for line in &results.left_out {
        let _ = writeln!(out, "<p class=\"faint\">{}</p>", escape(line));
    }
    let _ = writeln!(
        out,
        "<p class=\"faint\">How it was measured: server on core {}, load on core {}, priority {}. The servers take turns \
         (A B C, C B A, …); the first round is thrown away. Only runs of the same round are compared. A run in which a \
         core was taken away for more than 3 % of the time is made again. The interval of a median is that of its \
         order statistics at 95 %. A difference is only called one when the whole interval is on one side of 1 and the \
         median at least 1 % away. Every byte that comes back is checked. “≈ 1” is no difference beyond the noise, \
         “?” too few or too disturbed rounds. In the strips each dot is a round, the dashed line is 1, the green one \
         the goal.</p>",
        settings.server_core, settings.load_core, settings.nice
    );
    out + "</footer>\n"
}

/// A latency in microseconds, as an axis has it.
fn micros(us: f64) -> String {
    let round = |value: f64| match value {
        v if v < 10.0 => format!("{}", (v * 10.0).round() / 10.0),
        v => format!("{v:.0}"),
    };
    match us {
        us if us < 1e3 => format!("{} µs", round(us)),
        us if us < 1e6 => format!("{} ms", round(us / 1e3)),
        us => format!("{} s", round(us / 1e6)),
    }
}

/// A number, as an axis has it.
fn number(value: f64) -> String {
    match value {
        v if v >= 1000.0 => units::grouped(v.round() as u64),
        v => format!("{}", (v * 100.0).round() / 100.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_stays_text() {
        assert_eq!(escape("a<b> & \"c\""), "a&lt;b&gt; &amp; &quot;c&quot;");
    }

    #[test]
    fn axes_read_well() {
        for (us, text) in [
            (0.5, "0.5 µs"),
            (20.0, "20 µs"),
            (1000.0, "1 ms"),
            (2.5e6, "2.5 s"),
        ] {
            assert_eq!(micros(us), text);
        }
        assert_eq!(number(0.125), "0.13");
        assert_eq!(number(120_000.0), "120,000");
    }

    #[test]
    fn servers_keep_their_colours() {
        assert_eq!(colour("evring"), colour("evring × 9000"));
        assert_ne!(colour("evring"), colour("libevent"));
        assert_eq!(colour("mine"), colour("mine"));
    }
}
