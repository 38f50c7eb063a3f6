//! The tables and results.json.

use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::evaluate::HeldOut;
use crate::linear::Footprint;
use crate::train::Run;

/// One row of the comparison of formats.
#[derive(Serialize)]
pub struct Format {
    pub name: String,
    /// ‖W - Ŵ‖ / ‖W‖ over all linear layers.
    pub relative_error: f64,
    pub bits_per_parameter: f64,
    pub code_bytes: usize,
    pub constant_bytes: usize,
    pub held_out: HeldOut,
}

impl Format {
    pub fn new(name: &str, cost: &Footprint, held_out: HeldOut) -> Self {
        Self {
            name: name.to_owned(),
            relative_error: cost.relative_error(),
            bits_per_parameter: cost.bits_per_parameter(),
            code_bytes: cost.weight_bytes(),
            constant_bytes: cost.constant_bytes,
            held_out,
        }
    }
}

/// Everything that the program has found.
#[derive(Serialize)]
pub struct Report {
    pub model: String,
    /// The type that the linear layers are stored in.
    pub stored_as: String,
    pub text: String,
    pub train_tokens: usize,
    pub held_out_tokens: usize,
    pub linear_parameters: usize,
    /// Where the quantized linear layers ran.
    pub device: String,
    /// Of the processor.
    pub instruction_set: &'static str,
    pub threads: usize,
    pub settings: Settings,
    pub formats: Vec<Format>,
    pub qlora: Run,
    pub lora: Run,
}

#[derive(Serialize)]
pub struct Settings {
    pub steps: usize,
    pub rank: usize,
    pub alpha: f32,
    pub seq: usize,
    pub batch: usize,
    pub lr: f32,
    pub seed: u64,
}

impl Report {
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)?;
        std::fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))
    }
}

/// A note for weights that have been quantized before: their "unquantized" values are on a grid already.
pub fn storage_note(stored_as: &str) -> Option<String> {
    let quantized = !matches!(stored_as, "F32" | "F16" | "BF16" | "F64" | "unknown");
    quantized.then(|| {
        format!(
            "The file stores the linear layers as {stored_as}; \"unquantized\" is these values in float32, so its\n\
             perplexity is that of the {stored_as} model, and the errors are those of quantizing it once more."
        )
    })
}

pub fn print_formats(formats: &[Format], tokens: usize, stored_as: &str) {
    println!(
        "\nFormats: error of the linear layers and perplexity of {tokens} held-out tokens, before training"
    );
    println!("{:<28}{:>12}{:>12}{:>12}", "", "rel. error", "bits/param", "perplexity");
    for format in formats {
        println!(
            "{:<28}{:>12.4}{:>12.3}{:>12.3}",
            format.name, format.relative_error, format.bits_per_parameter, format.held_out.perplexity
        );
    }
    if let Some(note) = storage_note(stored_as) {
        println!("{note}");
    }
}

pub fn print_memory(report: &Report) {
    let [base, .., plain, double] = &report.formats[..] else { return };
    let line = |name: &str, bytes: usize, note: String| {
        println!("{name:<44}{:>10}  {note}", megabytes(bytes as u64))
    };
    println!("\nMemory, {} parameters in linear layers", report.linear_parameters);
    line("linear layers in 16 bits", base.code_bytes, String::new());
    for format in [plain, double] {
        let bits = format!("{:.3} bits/param", format.bits_per_parameter);
        line(&format!("linear layers in {}", format.name), format.code_bytes + format.constant_bytes, bits);
        let bits = 8.0 * format.constant_bytes as f64 / report.linear_parameters as f64;
        line("  of it constants", format.constant_bytes, format!("{bits:.3} bits/param"));
    }
    line("adapters, float32", report.qlora.adapter_bytes, format!("rank {}", report.settings.rank));
    let note = report.qlora.paged.as_ref().map_or(String::new(), |paged| {
        let [staying, in_] = [paged.staying_bytes, paged.bytes_in].map(megabytes);
        let (windows, steps) = (paged.windows, report.settings.steps);
        format!(
            "{staying} resident, the rest in {windows} windows a step; {in_} came and went in {steps} steps"
        )
    });
    line("optimizer states", report.qlora.optimizer_bytes, note);
    line("embedding, norms, head, float32", report.qlora.rest_bytes, String::new());
    for (run, note) in [(&report.qlora, ""), (&report.lora, "(its linear layers are float32 on the CPU)")] {
        let name = format!("peak resident memory, {}", run.name);
        match run.peak_bytes {
            Some(bytes) => line(&name, bytes as usize, note.to_owned()),
            None => println!("{name:<44}{:>10}", "unknown"),
        }
    }
}

pub fn print_training(report: &Report) {
    let Report { qlora, lora, settings, .. } = report;
    println!(
        "\nTraining, {} steps of {} x {} tokens, rank {}, alpha {}, learning rate {}, seed {}",
        settings.steps,
        settings.batch,
        settings.seq,
        settings.rank,
        settings.alpha,
        settings.lr,
        settings.seed
    );
    let name = |run: &Run| run.name.clone();
    println!("{:<28}{:>26}{:>26}", "", name(qlora), name(lora));
    let row = |what: &str, show: &dyn Fn(&Run) -> String| {
        println!("{what:<28}{:>26}{:>26}", show(qlora), show(lora))
    };
    for step in shown_steps(settings.steps) {
        row(&format!("loss, step {}", step + 1), &|run| format!("{:.4}", run.losses[step]));
    }
    row("held-out loss before", &|run| format!("{:.4}", run.before.loss));
    row("held-out loss after", &|run| format!("{:.4}", run.after.loss));
    row("held-out perplexity before", &|run| format!("{:.3}", run.before.perplexity));
    row("held-out perplexity after", &|run| format!("{:.3}", run.after.perplexity));
    row("seconds per step", &|run| format!("{:.2}", run.seconds_per_step));
    row("adapters: sha256", &|run| run.adapters[..16].to_owned());
    println!("held-out loss after, QLoRA / LoRA: {:.4}", qlora.after.loss / lora.after.loss);
}

/// About ten steps, the first and the last among them.
fn shown_steps(steps: usize) -> Vec<usize> {
    let mut shown: Vec<usize> = (0..steps).step_by(steps.div_ceil(10)).collect();
    if shown.last() != Some(&(steps - 1)) {
        shown.push(steps - 1);
    }
    shown
}

fn megabytes(bytes: u64) -> String {
    format!("{:.2} MB", bytes as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_and_errors_of_a_format() {
        let held_out = HeldOut { loss: 0.0, perplexity: 1.0 };
        let cost = Footprint {
            parameters: 64,
            code_bytes: 32,
            constant_bytes: 4,
            squared_error: 0.01,
            squared_norm: 1.0,
        };
        let format = Format::new("NF4", &cost, held_out);
        assert_eq!((format.bits_per_parameter, format.relative_error), (4.5, 0.1));
        let plain = Footprint { parameters: 64, ..Footprint::default() };
        let format = Format::new("plain", &plain, held_out);
        assert_eq!((format.bits_per_parameter, format.relative_error), (16.0, 0.0));
    }

    #[test]
    fn stored_types_are_noted_and_steps_chosen() {
        assert!(storage_note("Q4_1").unwrap().contains("as Q4_1"));
        assert!(storage_note("BF16").is_none());
        assert_eq!(shown_steps(1), [0]);
        assert_eq!(shown_steps(21), [0, 3, 6, 9, 12, 15, 18, 20]);
    }
}
