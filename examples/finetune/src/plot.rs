//! The loss curves as an SVG image.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;

/// Draws one curve a run: its name, and the training loss of each step.
pub fn loss_curves(path: &Path, curves: &[(&str, &[f32])]) -> Result<()> {
    draw(path, curves).map_err(|error| anyhow!("cannot write {}: {error}", path.display()))
}

fn draw(path: &Path, curves: &[(&str, &[f32])]) -> Result<(), Box<dyn std::error::Error>> {
    let losses = || curves.iter().flat_map(|(_, losses)| losses.iter().copied());
    let (low, high) = (losses().fold(f32::INFINITY, f32::min), losses().fold(f32::NEG_INFINITY, f32::max));
    let margin = 0.05 * (high - low).max(0.1);
    let steps = curves.iter().map(|(_, losses)| losses.len()).max().unwrap_or(0).max(2);
    let area = SVGBackend::new(path, (800, 480)).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .margin(16)
        .x_label_area_size(40)
        .y_label_area_size(56)
        .build_cartesian_2d(1..steps, low - margin..high + margin)?;
    chart.configure_mesh().light_line_style(WHITE).x_desc("step").y_desc("training loss").draw()?;
    // The second curve dashed, as the two nearly coincide.
    let styles = [BLUE.stroke_width(2), RED.stroke_width(2)];
    for (index, ((name, losses), style)) in curves.iter().zip(styles.into_iter().cycle()).enumerate() {
        let points = losses.iter().enumerate().map(|(step, loss)| (step + 1, *loss));
        let drawn = match index {
            0 => chart.draw_series(LineSeries::new(points, style))?,
            _ => chart.draw_series(DashedLineSeries::new(points, 6, 4, style))?,
        };
        drawn.label(*name).legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], style));
    }
    chart.configure_series_labels().background_style(WHITE).border_style(BLACK.mix(0.3)).draw()?;
    area.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn an_image_is_written() {
        let path = std::env::temp_dir().join(format!("finetune-plot-{}.svg", std::process::id()));
        super::loss_curves(&path, &[("one", &[3.0, 2.0, 1.5]), ("two", &[3.0, 2.1, 1.4])]).unwrap();
        let image = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(image.contains("</svg>") && image.contains("training loss") && image.contains("two"));
        assert!(super::loss_curves("no/such/folder/a.svg".as_ref(), &[("one", &[1.0])]).is_err());
    }
}
