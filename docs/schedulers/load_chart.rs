//! A chart of what the scheduler `feedback` does when a server becomes slow, beside wlc.

use crate::simulation::{Law, Moment, Plan, run};
use std::fmt::Write;

const SECONDS: usize = 600;
/// When the server becomes slow.
const CHANGE: usize = 100;
/// When reports stop.
const STOP: usize = 450;
const INK: &str = "#333";
/// The last is drawn over the others.
const LINES: [(Law, &str, &str); 3] = [
    (Law::Naive, "by each report", "#e0b080"),
    (Law::Wlc, "wlc", "#909090"),
    (Law::Feedback, "feedback", "#4878a8"),
];

/// The chart.
pub(crate) fn draw() -> String {
    let plan = Plan {
        capacities: vec![200.0; 4],
        connections: 480.0,
        lifetime: 10.0,
        delay: 0..=5,
        noise: 0.2,
        change: Some((CHANGE, 1, 100.0)),
        silence: STOP..SECONDS,
        seconds: SECONDS,
        seed: 1,
    };
    let mut panels = String::new();
    let moments = LINES.map(|(law, name, colour)| (run(&plan, law), name, colour));
    let spreads = |moments: &[Moment]| moments.iter().map(Moment::spread).collect::<Vec<_>>();
    panel(&mut panels, 10.0, "how much more load the most loaded server has", 1.0, &moments, &spreads);
    let factors = |moments: &[Moment]| moments.iter().map(|moment| moment.factors[1]).collect::<Vec<_>>();
    panel(&mut panels, 395.0, "the slow server's factor", 2.0, &moments, &factors);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"760\" height=\"190\" viewBox=\"0 0 760 190\" role=\"img\" \
         font-family=\"sans-serif\" font-size=\"11\" fill=\"{INK}\">\n<title>feedback and wlc with a slow server</title>\n\
         <rect width=\"760\" height=\"190\" fill=\"#fff\"/>\n{panels}</svg>\n"
    )
}

fn panel(
    out: &mut String,
    left: f64,
    title: &str,
    most: f64,
    lines: &[(Vec<Moment>, &str, &str)],
    of: &dyn Fn(&[Moment]) -> Vec<f64>,
) {
    let x = |second: usize| left + 24.0 + 320.0 * second as f64 / SECONDS as f64;
    let y = |value: f64| 150.0 - 115.0 * value / most;
    let text = |out: &mut String, x: f64, y: f64, anchor: &str, words: &str| {
        writeln!(out, "<text x=\"{x:.0}\" y=\"{y:.0}\" text-anchor=\"{anchor}\">{words}</text>")
            .expect("room");
    };
    text(out, left, 20.0, "start", title);
    for value in [0.0, 0.5, 1.0, 1.5, 2.0].into_iter().filter(|value| *value <= most) {
        text(out, left + 18.0, y(value) + 4.0, "end", &format!("{value:.1}"));
        let (from, to, y) = (x(0), x(SECONDS), y(value));
        writeln!(out, "<path d=\"M{from:.0} {y:.1}H{to:.0}\" stroke=\"{INK}\" stroke-width=\"0.3\"/>")
            .expect("room");
    }
    for (second, words) in [(CHANGE, "half the capacity"), (STOP, "reports stop")] {
        let x = x(second);
        writeln!(out, "<path d=\"M{x:.1} 30V156\" stroke=\"{INK}\" stroke-dasharray=\"3 3\"/>")
            .expect("room");
        text(out, x, 168.0, "middle", words);
    }
    for (number, (moments, name, colour)) in lines.iter().enumerate() {
        let points: Vec<String> = of(moments)
            .iter()
            .enumerate()
            .step_by(5)
            .map(|(second, value)| format!("{:.1} {:.1}", x(second), y(value.min(most))))
            .collect();
        let points = points.join("L");
        writeln!(out, "<path d=\"M{points}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"/>")
            .expect("room");
        let at = left + [130.0, 220.0, 270.0][number];
        writeln!(out, "<rect x=\"{at:.0}\" y=\"174\" width=\"8\" height=\"8\" fill=\"{colour}\"/>")
            .expect("room");
        text(out, at + 11.0, 182.0, "start", name);
    }
    text(out, left + 24.0, 182.0, "start", &format!("{SECONDS} seconds"));
}
