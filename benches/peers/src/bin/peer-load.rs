//! The closed-loop load generator of the comparison.

use std::process::ExitCode;

use clap::Parser;
use evring_peers::cpu::CpuUse;
use evring_peers::load::{LoadArgs, Report, run};
use serde_json::json;

/// Closed-loop load generator: sends messages, checks the bytes that come back, reports rate and latency
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    load: LoadArgs,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args.load) {
        Ok(report) => {
            if args.json {
                println!("{}", to_json(&args.load, &report));
            } else {
                print_text(&report);
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("peer-load: {error}");
            ExitCode::FAILURE
        }
    }
}

fn to_json(args: &LoadArgs, report: &Report) -> serde_json::Value {
    let seconds = report.elapsed.as_secs_f64();
    let cpu = |cpu: Option<CpuUse>| {
        cpu.map(|cpu| {
            let ran = cpu.ran.as_secs_f64();
            json!({
                "us_per_message": (report.messages > 0).then(|| ran * 1e6 / report.messages as f64),
                "busy": ran / seconds,
                "kept_waiting": cpu.waited.as_secs_f64() / seconds,
            })
        })
    };
    json!({
        "connections": args.connections,
        "size": args.size,
        "depth": args.depth,
        "seconds": seconds,
        "messages": report.messages,
        "messages_per_s": report.messages as f64 / seconds,
        "bytes_per_s": report.bytes as f64 / seconds,
        "latency_us": {
            "p50": micros(report, 50.0),
            "p90": micros(report, 90.0),
            "p99": micros(report, 99.0),
            "p99.9": micros(report, 99.9),
            "max": report.latency_ns.max() as f64 / 1e3,
        },
        "server_cpu": cpu(report.server_cpu),
        "load_cpu": cpu(report.load_cpu),
    })
}

fn print_text(report: &Report) {
    let seconds = report.elapsed.as_secs_f64();
    println!(
        "{:.0} messages/s, {:.2} MB/s each way, {} messages in {seconds:.2} s, all bytes as sent",
        report.messages as f64 / seconds,
        report.bytes as f64 / seconds / 1e6,
        report.messages,
    );
    println!(
        "latency µs: p50 {:.1}  p90 {:.1}  p99 {:.1}  p99.9 {:.1}  max {:.1}",
        micros(report, 50.0),
        micros(report, 90.0),
        micros(report, 99.0),
        micros(report, 99.9),
        report.latency_ns.max() as f64 / 1e3,
    );
    if let Some(cpu) = report.server_cpu {
        println!(
            "server CPU: {:.3} µs a message, {:.0} % of a core",
            cpu.ran.as_secs_f64() * 1e6 / report.messages.max(1) as f64,
            cpu.ran.as_secs_f64() / seconds * 100.0,
        );
    }
}

fn micros(report: &Report, percentile: f64) -> f64 {
    report.latency_ns.value_at_percentile(percentile) as f64 / 1e3
}
