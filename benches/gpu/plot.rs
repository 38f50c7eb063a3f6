//! The shares of the copy rate as an SVG image.

use super::report::Report;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::path::Path;

/// Pixels a bar, with the gap to the next.
const PITCH: i32 = 18;
/// The axis reaches from 0 to this: a case whose output stays in the cache may pass 1.
const RIGHT: f64 = 1.2;

/// Blue; orange for a case that is below its goal.
const COLORS: [RGBColor; 2] = [RGBColor(76, 120, 168), RGBColor(245, 133, 24)];

/// Draws a bar a case; a black mark where its goal is.
pub fn shares(path: &Path, report: &Report) -> Result<(), Box<dyn std::error::Error>> {
    let count = report.cases.len().max(1) as i32;
    let area = SVGBackend::new(path, (960, (PITCH * count + 100) as u32)).into_drawing_area();
    area.fill(&WHITE)?;
    let title =
        format!("{}: share of the copy rate, {:.0} GB/s", report.device.name, report.copy_rate() / 1e9);
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 16))
        .margin(12)
        .margin_left(270)
        .x_label_area_size(32)
        .build_cartesian_2d(0.0..RIGHT, (f64::from(count))..0.0)?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .disable_y_mesh()
        .disable_y_axis()
        .x_labels(7)
        .x_desc("share")
        .draw()?;
    let label =
        ("sans-serif", 12).into_font().into_text_style(&area).pos(Pos::new(HPos::Right, VPos::Center));
    for (row, case) in report.cases.iter().enumerate() {
        let (top, share) = (row as f64, (case.bytes_per_second / report.copy_rate()).min(RIGHT));
        let color = COLORS[usize::from(case.goal.is_some_and(|goal| share < goal))];
        let bar = Rectangle::new([(0.0, top + 0.15), (share, top + 0.85)], color.filled());
        chart.draw_series([bar])?;
        if let Some(goal) = case.goal {
            let mark = PathElement::new([(goal, top + 0.05), (goal, top + 0.95)], BLACK.stroke_width(2));
            chart.draw_series([mark])?;
        }
        let (x, y) = chart.backend_coord(&(0.0, top + 0.5));
        area.draw(&Text::new(case.name.clone(), (x - 6, y), label.clone()))?;
    }
    area.present()?;
    Ok(())
}
