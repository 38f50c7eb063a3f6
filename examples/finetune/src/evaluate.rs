//! Perplexity on the held-out text.

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::model::Llama;
use crate::text::Corpus;

/// The mean cross-entropy of the held-out tokens, in nats, and e to its power.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct HeldOut {
    pub loss: f64,
    pub perplexity: f64,
}

pub fn held_out(model: &Llama, corpus: &Corpus, what: &str) -> Result<HeldOut> {
    let bar = progress(corpus.held_out_batches().count(), &format!("held-out text, {what}"));
    let (mut sum, mut tokens) = (0.0, 0);
    for batch in corpus.held_out_batches() {
        sum += model.total_loss(&batch)?;
        tokens += batch.targets.len();
        bar.inc(1);
    }
    bar.finish_and_clear();
    let loss = sum / tokens as f64;
    Ok(HeldOut { loss, perplexity: loss.exp() })
}

/// A progress bar; it draws nothing where nobody watches.
pub fn progress(len: usize, what: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix:42} {bar:30} {pos}/{len} {msg} {eta}").unwrap();
    ProgressBar::new(len as u64).with_style(style).with_prefix(what.to_owned())
}
