//! Draws the charts of `docs/schedulers.md`: `cargo run --example scheduler-charts`.

mod charts;
mod load_chart;
mod simulation;

use std::fs;
use std::path::Path;

fn main() -> std::io::Result<()> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/schedulers");
    let costs = fs::read_to_string(directory.join("cost.tsv"))?;
    for (kind, chart) in charts::all(&costs) {
        fs::write(directory.join(format!("{kind}.svg")), chart)?;
    }
    fs::write(directory.join("feedback-load.svg"), load_chart::draw())
}
