//! Finetunes a small language model with QLoRA, beside LoRA on the unquantized model, and
//! reports memory, perplexity of each 4-bit format, and both loss curves. See `--help`.

mod args;
mod engine;
mod errors;
mod evaluate;
mod fetch;
mod host;
mod linear;
mod loss;
mod memory;
mod model;
mod ops;
mod optimizer;
mod plot;
mod report;
#[cfg(test)]
mod testing;
mod text;
mod tokenizer;
mod train;

use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use qlora_kernels::{Codebook, Constants, QuantSpec};

use args::Args;
use engine::{Engine, Place};
use model::{Checkpoint, Llama};
use report::{Format, Report, Settings};
use text::Corpus;

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", format!("{error:#}").replace('\n', " "));
            ExitCode::FAILURE
        }
    }
}

/// The rows of the table of formats, as in table 2 of the paper; blocks of 64 weights.
fn formats() -> Vec<(&'static str, Option<QuantSpec>)> {
    let spec = |codebook| Some(QuantSpec::new(codebook, 64));
    vec![
        ("unquantized", None),
        ("INT4", spec(Codebook::Int4)),
        ("FP4 E2M1", spec(Codebook::Fp4E2m1)),
        ("FP4 E3M0", spec(Codebook::Fp4E3m0)),
        ("NF4", spec(Codebook::Nf4)),
        ("NF4 + DQ (FP8)", Some(nf4_dq())),
    ]
}

/// NF4 with its constants quantized again, to FP8 in blocks of 256 (section 3, "Double Quantization").
fn nf4_dq() -> QuantSpec {
    QuantSpec::new(Codebook::Nf4, 64).with_constants(Constants::Fp8)
}

fn run(args: &Args) -> Result<()> {
    args.check()?;
    let threads = set_threads(args)?;
    if let Some(path) = &args.errors {
        return errors::print(&*Engine::new(Place::Cpu, threads)?, path, formats());
    }
    let engine = Engine::new(args.device, threads)?;
    let (text, text_name) = text::load(args.text.as_deref())?;
    let out = args.folder();
    std::fs::create_dir_all(&out).with_context(|| format!("cannot create the folder {}", out.display()))?;
    let path = match &args.model {
        Some(path) => path.clone(),
        None => fetch::default_model(&fetch::target_folder())?,
    };
    let checkpoint = Checkpoint::open(&path)?;
    let context = checkpoint.config.context;
    ensure!(args.seq <= context, "--seq {} is more than the model's context of {context} tokens", args.seq);
    let corpus = Corpus::new(&text, &checkpoint.tokenizer()?, args.seq, args.eval_tokens)?;
    let vocabulary = checkpoint.config.vocabulary;
    let highest = corpus.train.iter().chain(&corpus.held_out).max().copied().unwrap_or(0) as usize;
    ensure!(highest < vocabulary, "the tokenizer made token {highest}, the model knows only {vocabulary}");
    let held_out_tokens = corpus.held_out.len() - 1;
    let stored_as = checkpoint.stored_as();
    println!("model  {} ({stored_as})", path.display());
    println!("text   {text_name}: {} tokens for training, {held_out_tokens} held out", corpus.train.len());
    println!("layers on {}", engine.name);
    println!("rest   on the CPU, {threads} threads, {}", engine.host.instruction_set());

    let mut table = Vec::new();
    let mut linear_parameters = 0;
    for (name, spec) in formats() {
        let model = Llama::load(&engine, &checkpoint, spec.as_ref(), None)?;
        linear_parameters = model.footprint.parameters;
        table.push(Format::new(name, &model.footprint, evaluate::held_out(&model, &corpus, name)?));
    }
    report::print_formats(&table, held_out_tokens, &stored_as);

    let (plain, double) = (table[0].held_out, table[table.len() - 1].held_out);
    let train = |name: &str, spec: Option<&QuantSpec>, before| {
        train::run(name, args, &engine, &checkpoint, &corpus, spec, before)
    };
    let qlora = train("QLoRA, NF4 + DQ", Some(&nf4_dq()), double)?;
    let lora = train("LoRA, unquantized", None, plain)?;
    let report = Report {
        model: path.display().to_string(),
        stored_as,
        text: text_name,
        train_tokens: corpus.train.len(),
        held_out_tokens,
        linear_parameters,
        device: engine.name.clone(),
        instruction_set: engine.host.instruction_set(),
        threads,
        settings: Settings {
            steps: args.steps,
            rank: args.rank,
            alpha: args.alpha,
            seq: args.seq,
            batch: args.batch,
            lr: args.lr,
            seed: args.seed,
        },
        formats: table,
        qlora,
        lora,
    };
    report::print_memory(&report);
    report::print_training(&report);
    let (json, image) = (out.join("results.json"), out.join("loss.svg"));
    report.write(&json)?;
    let curves = [&report.qlora, &report.lora].map(|run| (run.name.as_str(), run.losses.as_slice()));
    plot::loss_curves(&image, &curves)?;
    println!("\nwritten: {}, {}", json.display(), image.display());
    Ok(())
}

/// As many threads for candle's products and for this example's own loops as for the library.
fn set_threads(args: &Args) -> Result<usize> {
    let threads = match args.threads {
        Some(threads) => threads,
        None => std::thread::available_parallelism()?.get(),
    };
    // SAFETY: no other thread runs yet.
    unsafe {
        // candle looks here for the number of threads of its products.
        std::env::set_var("RAYON_NUM_THREADS", threads.to_string());
        // Its simple operations have threads of their own, which after each one spin for a while and so
        // take the cores from everyone else.
        std::env::set_var("CANDLE_NUM_THREADS", "1");
    }
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build_global()
        .context("cannot start the threads")?;
    Ok(threads)
}
