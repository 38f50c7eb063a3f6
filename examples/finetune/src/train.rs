//! One finetuning run.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, ensure};
use qlora_kernels::ops::PagerStatistics;
use qlora_kernels::{Pager, PagerKind, PagerOptions, QuantSpec};
use serde::Serialize;

use crate::args::Args;
use crate::engine::Engine;
use crate::evaluate::{self, HeldOut, progress};
use crate::memory;
use crate::model::{Checkpoint, Llama, LoraSpec};
use crate::optimizer::Optimizer;
use crate::text::Corpus;

/// What a run has shown.
#[derive(Serialize)]
pub struct Run {
    pub name: String,
    /// The training loss of each step.
    pub losses: Vec<f32>,
    pub before: HeldOut,
    pub after: HeldOut,
    pub seconds_per_step: f64,
    /// Peak resident memory, from loading the model to the last step.
    pub peak_bytes: Option<u64>,
    pub adapter_bytes: usize,
    pub optimizer_bytes: usize,
    pub paged: Option<Paged>,
    /// Embedding, norms, head.
    pub rest_bytes: usize,
    /// SHA-256 of the trained adapters.
    pub adapters: String,
}

/// What paging the optimizer's states did.
#[derive(Serialize)]
pub struct Paged {
    pub budget: u64,
    /// Bytes that stayed resident, and the windows that the others passed through in a step.
    pub staying_bytes: u64,
    pub windows: u64,
    /// Bytes that came and went, in all steps.
    pub bytes_in: u64,
    pub bytes_out: u64,
}

impl From<PagerStatistics> for Paged {
    fn from(s: PagerStatistics) -> Self {
        let PagerStatistics { budget, staying_bytes, windows, bytes_in, bytes_out, .. } = s;
        Self { budget, staying_bytes, windows, bytes_in, bytes_out }
    }
}

/// Loads a model with fresh adapters, trains them and measures. `before` is the model's held-out loss
/// without adapters, which fresh adapters (B = 0) do not change.
pub fn run(
    name: &str,
    args: &Args,
    engine: &Arc<Engine>,
    checkpoint: &Checkpoint,
    corpus: &Corpus,
    spec: Option<&QuantSpec>,
    before: HeldOut,
) -> Result<Run> {
    let fresh_peak = memory::reset_peak();
    let lora = LoraSpec { rank: args.rank, alpha: args.alpha, seed: args.seed };
    let model = Llama::load(engine, checkpoint, spec, Some(lora))?;
    let options =
        PagerOptions { kind: PagerKind::File, budget: args.state_budget, folder: Some(args.folder()) };
    let pager = args.paged.then(|| Pager::new(&engine.host, &options)).transpose()?;
    let mut optimizer = Optimizer::new(&model, args.optimizer, args.lr, pager)?;
    let (mut losses, start) = (Vec::new(), Instant::now());
    let bar = progress(args.steps, &format!("training, {name}"));
    for batch in corpus.batches(args.batch, args.seed).take(args.steps) {
        let loss = model.loss(&batch)?;
        let value = loss.to_scalar::<f32>()?;
        ensure!(
            value.is_finite(),
            "{name}: the loss is {value} at step {}; try a smaller --lr",
            losses.len() + 1
        );
        optimizer.step(engine, &model, &loss.backward()?)?;
        losses.push(value);
        bar.set_message(format!("loss {value:.3}"));
        bar.inc(1);
    }
    bar.finish_and_clear();
    let seconds_per_step = start.elapsed().as_secs_f64() / args.steps as f64;
    let peak_bytes = if fresh_peak { memory::peak() } else { None };
    Ok(Run {
        name: name.to_owned(),
        after: evaluate::held_out(&model, corpus, name)?,
        before,
        losses,
        seconds_per_step,
        peak_bytes,
        adapter_bytes: model.trained().map(|var| var.elem_count() * size_of::<f32>()).sum(),
        optimizer_bytes: optimizer.bytes(),
        paged: optimizer.paged().map(Paged::from),
        rest_bytes: model.rest_bytes(),
        adapters: model.fingerprint()?,
    })
}
