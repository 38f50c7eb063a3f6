//! A step with paged states as a picture: what it puts into streams, laid out by what an H100 and its link can do. The log is the
//! simulator's; no GPU has a part in it.
//!
//! The simulator takes its time over kernels, so its step is small: each of its bytes stands for [`SCALE`] of them. A pager with
//! a budget that is so many times as large cuts states that are, too, into the same windows, but for what whole chunks leave of
//! them: 2 %. The bytes of kernels are those that threads ask for, of which a GPU's caches answer some: 22 a parameter instead of 10.

use super::Result;
use super::device::Gpu;
use super::paged::{PagedStep, Paging, STREAMED_8BIT};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use ptx_sim::log::{Entry, Work};
use ptx_sim::timeline::{Engine, Rates, Span, lay_out};
use std::path::Path;

/// What each byte of the log stands for.
pub const SCALE: u64 = 256;
/// Parameters on the simulator: of AdamW with states in 8 bits, four times the budget of 1 MiB.
pub const PARAMETERS: usize = 2 << 20;

/// PCIe 5 x16 and the memory of an H100. A launch costs what one costs in a stream, a copy what the engine needs between two:
/// both estimates.
pub const RATES: Rates = Rates { link_in: 55e9, link_out: 55e9, memory: 3.35e12, launch: 3e-6, copy: 5e-6 };

/// The lanes, from above.
const LANES: [(Engine, &str); 3] =
    [(Engine::In, "link in"), (Engine::Kernels, "kernels"), (Engine::Out, "link out")];
/// A color for each place that a window can be in, in turns.
const COLORS: [RGBColor; 3] = [RGBColor(76, 120, 168), RGBColor(245, 133, 24), RGBColor(84, 162, 75)];
/// What stays.
const GRAY: RGBColor = RGBColor(150, 150, 150);

/// An operation of a step.
pub struct Operation {
    pub span: Span,
    /// Whose: what stays is 0, what comes and goes is numbered from 1 on.
    pub window: usize,
}

/// What a step puts into streams when one like it has been taken before, each byte [`SCALE`] times.
pub fn record(gpu: &Gpu, step: PagedStep, parameters: usize) -> Result<Vec<Entry>> {
    let paging = Paging::new(gpu, step, parameters)?;
    paging.enqueue(gpu)?; // what stays comes
    gpu.stream.synchronize()?;
    ptx_sim::reset_counters();
    paging.enqueue(gpu)?;
    gpu.stream.synchronize()?;
    let mut log = ptx_sim::counters().log;
    for entry in &mut log {
        match &mut entry.work {
            Work::Kernel { read, written, faults, .. } => {
                [read, written, faults].into_iter().for_each(|bytes| *bytes *= SCALE);
            }
            Work::Copy { bytes, .. } => *bytes *= SCALE,
            Work::Prefetch { bytes, moved, .. } => {
                [bytes, moved].into_iter().for_each(|bytes| *bytes *= SCALE)
            }
            _ => {}
        }
    }
    Ok(log)
}

/// When all is done that takes time. A stream works for one window between two of its events; the caller's begins with what stays.
pub fn operations(log: &[Entry]) -> Vec<Operation> {
    let spans = lay_out(log, &RATES);
    let mut operations = Vec::new();
    for (engine, _) in LANES {
        let Some(stream) = spans.iter().find(|span| span.engine == Some(engine)).map(|span| span.stream)
        else {
            continue;
        };
        let (mut window, mut at_work) = (usize::from(engine != Engine::Kernels), false);
        for span in spans.iter().filter(|span| span.stream == stream) {
            if span.engine.is_some() {
                operations.push(Operation { span: span.clone(), window });
            } else if at_work {
                window += 1;
            }
            at_work = span.engine.is_some();
        }
    }
    operations
}

/// Draws [`STREAMED_8BIT`] with as many [`PARAMETERS`].
pub fn draw(path: &Path, operations: &[Operation]) -> Result<()> {
    let end = operations.iter().map(|operation| operation.span.end).fold(0.0, f64::max) * 1e3;
    let area = SVGBackend::new(path, (1200, 300)).into_drawing_area();
    area.fill(&WHITE)?;
    let mega = |bytes: u64| (bytes * SCALE) >> 20;
    let (parameters, states) = (mega(PARAMETERS as u64), mega(STREAMED_8BIT.state_bytes(PARAMETERS)));
    let budget = mega(STREAMED_8BIT.budget(PARAMETERS));
    let title = format!(
        "A paged step of AdamW, {parameters} Mi parameters in bf16: {states} MiB of 8-bit states in host memory, a budget of \
         {budget} MiB on the GPU: {end:.1} ms"
    );
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 16))
        .margin(12)
        .margin_left(80)
        .x_label_area_size(52)
        .build_cartesian_2d(0.0..end, 3.0..0.0)?;
    let Rates { link_in, link_out, memory, launch, copy } = RATES;
    let description = format!(
        "ms, by the simulator's log and a model: link {:.0} GB/s in and {:.0} GB/s out, memory {:.2} TB/s, {:.0} µs a launch, \
         {:.0} µs a copy",
        link_in / 1e9,
        link_out / 1e9,
        memory / 1e12,
        launch * 1e6,
        copy * 1e6
    );
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .disable_y_mesh()
        .disable_y_axis()
        .x_labels(10)
        .x_desc(description)
        .draw()?;
    let middle = Pos::new(HPos::Center, VPos::Center);
    let number = ("sans-serif", 11).into_font().color(&WHITE).pos(middle);
    let small = ("sans-serif", 9).into_font().color(&BLACK).pos(middle);
    let name = ("sans-serif", 12).into_font().into_text_style(&area).pos(Pos::new(HPos::Right, VPos::Center));
    for (lane, (engine, label)) in LANES.into_iter().enumerate() {
        let top = lane as f64;
        let ours: Vec<_> =
            operations.iter().filter(|operation| operation.span.engine == Some(engine)).collect();
        for window in ours.chunk_by(|a, b| a.window == b.window) {
            let (first, last) = (&window[0].span, &window[window.len() - 1].span);
            let color = match window[0].window {
                0 => GRAY,
                passing => COLORS[(passing - 1) % COLORS.len()],
            };
            for Operation { span, .. } in window {
                let corners = [(span.start * 1e3, top + 0.2), (span.end * 1e3, top + 0.8)];
                chart.draw_series([Rectangle::new(corners, color.filled())])?;
            }
            let center = (first.start + last.end) / 2.0 * 1e3;
            let (text, style, height) = match engine {
                Engine::Kernels if window[0].window == 0 => ("stays".to_owned(), &small, 0.1),
                Engine::Kernels => (window[0].window.to_string(), &small, 0.1),
                _ => (window[0].window.to_string(), &number, 0.5),
            };
            let at = chart.backend_coord(&(center, top + height));
            area.draw(&Text::new(text, at, style.clone()))?;
        }
        let (x, y) = chart.backend_coord(&(0.0, top + 0.5));
        area.draw(&Text::new(label, (x - 8, y), name.clone()))?;
    }
    area.present()?;
    Ok(())
}
