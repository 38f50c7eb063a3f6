//! The command line.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Parser;
use qlora_kernels::Pager;

use crate::engine::Place;
use crate::fetch;
use crate::optimizer::Choice;

/// Finetunes a small Llama-architecture model twice, with QLoRA (its linear weights held as NF4 with
/// double quantization) and with LoRA on the unquantized weights, and compares the two.
#[derive(Parser, Debug, Clone)]
#[command(version)]
pub struct Args {
    /// A GGUF file or a folder with config.json, *.safetensors and tokenizer.json
    /// [default: SmolLM2-135M-Instruct, downloaded once]
    #[arg(long, value_name = "PATH")]
    pub model: Option<PathBuf>,
    /// The text to learn, UTF-8 [default: The Devil's Dictionary, part of this example]
    #[arg(long, value_name = "FILE")]
    pub text: Option<PathBuf>,
    /// Optimizer steps of each of the two runs
    #[arg(long, default_value_t = 40)]
    pub steps: usize,
    /// Rank r of the adapters
    #[arg(long, default_value_t = 8)]
    pub rank: usize,
    /// The adapters are scaled by alpha / rank
    #[arg(long, default_value_t = 16.0)]
    pub alpha: f32,
    /// Tokens of one training sequence
    #[arg(long, default_value_t = 256)]
    pub seq: usize,
    /// Sequences of one step
    #[arg(long, default_value_t = 1)]
    pub batch: usize,
    /// What trains the adapters
    #[arg(long, value_enum, default_value_t = Choice::AdamW)]
    pub optimizer: Choice,
    /// Keep the optimizer's states in a file, in the folder of the results, and no more of them resident than the budget
    #[arg(long)]
    pub paged: bool,
    /// Bytes of the states that stay resident, at least 262144
    #[arg(long, value_name = "BYTES", default_value_t = 16 << 20, requires = "paged")]
    pub state_budget: u64,
    /// Learning rate (constant, as in the paper)
    #[arg(long, default_value_t = 1e-3)]
    pub lr: f32,
    /// Seed of the adapters' start and of the order of the data
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Held-out tokens that perplexity is measured on
    #[arg(long, default_value_t = 4096)]
    pub eval_tokens: usize,
    /// Train nothing: print how well each data type keeps the weights of this safetensors file, of any
    /// architecture
    #[arg(long, value_name = "FILE")]
    pub errors: Option<PathBuf>,
    /// Where the quantized linear layers run: auto (CUDA device 0 if there is one, else the CPU), cpu, cuda or cuda:N
    #[arg(long, default_value = "auto", value_name = "PLACE")]
    pub device: Place,
    /// Threads [default: all cores]
    #[arg(long)]
    pub threads: Option<usize>,
    /// Folder of results.json and loss.svg [default: target/finetune]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

impl Args {
    /// Where results go.
    pub fn folder(&self) -> PathBuf {
        self.out.clone().unwrap_or_else(fetch::target_folder)
    }

    /// Refuses what could not be trained, before anything is loaded.
    pub fn check(&self) -> Result<()> {
        let least = [
            ("--steps", self.steps, 1),
            ("--rank", self.rank, 1),
            ("--seq", self.seq, 8),
            ("--batch", self.batch, 1),
            ("--eval-tokens", self.eval_tokens, self.seq),
            ("--threads", self.threads.unwrap_or(1), 1),
        ];
        if self.paged && self.state_budget < Pager::LEAST_BUDGET {
            let (value, least) = (self.state_budget, Pager::LEAST_BUDGET);
            bail!("--state-budget {value} is too small: at least {least} is needed");
        }
        for (flag, value, least) in least {
            if value < least {
                bail!("{flag} {value} is too small: at least {least} is needed");
            }
        }
        for (flag, value) in [("--lr", self.lr), ("--alpha", self.alpha)] {
            if !(value.is_finite() && value > 0.0) {
                bail!("{flag} {value} is not a positive number");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(flags: &[&str]) -> String {
        let args = Args::parse_from([&["finetune"], flags].concat());
        args.check().unwrap_err().to_string()
    }

    #[test]
    fn defaults_are_accepted() {
        Args::parse_from(["finetune"]).check().unwrap();
    }

    #[test]
    fn senseless_values_are_named() {
        assert_eq!(refusal(&["--rank", "0"]), "--rank 0 is too small: at least 1 is needed");
        assert_eq!(refusal(&["--seq", "2"]), "--seq 2 is too small: at least 8 is needed");
        assert!(refusal(&["--eval-tokens", "5"]).starts_with("--eval-tokens 5 is too small"));
        let budget = refusal(&["--paged", "--state-budget", "9"]);
        assert_eq!(budget, "--state-budget 9 is too small: at least 262144 is needed");
        let alone = Args::try_parse_from(["finetune", "--state-budget", "300000"]).unwrap_err().to_string();
        assert!(alone.contains("--paged"), "{alone}");
        assert_eq!(refusal(&["--lr", "nan"]), "--lr NaN is not a positive number");
        let device = Args::try_parse_from(["finetune", "--device", "gpu"]).unwrap_err().to_string();
        assert!(device.contains("'gpu' for '--device <PLACE>': it is none of auto, cpu"), "{device}");
    }
}
