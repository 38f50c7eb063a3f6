//! ptxas takes every generated kernel, for each GPU generation that its module serves, without spills; what they use
//! stands in `ptx/generated/RESOURCES.md`. After a change of a kernel: `QLK_BLESS=1 cargo test --test ptxas`.
//!
//! Needs the folder `$PTXAS_DIR` with `13.5/ptxas` and `12.0/ptxas`; `.ci/ptxas` fetches them. The older one stands for
//! the oldest driver that must compile the kernels (CUDA 12.0, r525).

use ptx_asm::Target;
use qlora_kernels::kernels::catalogue::{Entry, catalogue, variants};
use rayon::prelude::*;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// GPUs to assemble for, and the newest that ptxas 12.0 knows.
const GPUS: [u32; 7] = [75, 80, 86, 89, 90, 100, 120];
const NEWEST_OF_12_0: u32 = 90;

/// Whether modules for `target` are what a GPU gets.
fn serves(target: Target, gpu: u32) -> bool {
    match target {
        Target::Sm75 => gpu < 80,
        Target::Sm90a => gpu == 90,
        _ => gpu >= 80,
    }
}

/// What ptxas calls a GPU that gets a module for `target`.
fn arch(target: Target, gpu: u32) -> String {
    if target == Target::Sm90a { target.name().into() } else { format!("sm_{gpu}") }
}

fn source(entry: &Entry) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("ptx/generated");
    folder.join(entry.target.name()).join(&entry.file).with_extension("ptx")
}

/// Registers and bytes of shared memory.
fn assemble(ptxas: &Path, name: &str, source: &Path, arch: &str) -> (u32, u32) {
    let output = Command::new(ptxas)
        .args(["-v", &format!("-arch={arch}"), "-o", "/dev/null"])
        .arg(source)
        .output()
        .unwrap_or_else(|error| panic!("{}: {error}", ptxas.display()));
    let log = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    let what = format!("{name} for {arch} by {}", ptxas.display());
    assert!(output.status.success(), "{what}: {}\n{log}", output.status);
    // "wgmma.mma_async instructions are serialized due to …", "setmaxnreg ignored …"
    assert!(!log.contains("serialized") && !log.contains("ignored"), "{what}\n{log}");
    // "Used 32 registers, used 1 barriers, 64 bytes smem, …"; "0 bytes stack frame, 0 bytes spill stores, …"
    let before = |word: &str| {
        let words: Vec<_> = log.split_whitespace().collect();
        let at =
            words.windows(word.split(' ').count()).position(|w| w.join(" ").trim_end_matches(',') == word);
        at.map(|at| words[at - 1].parse::<u32>().unwrap_or_else(|_| panic!("{what}: {log}")))
    };
    assert_eq!(before("bytes spill stores"), Some(0), "{what}: spills\n{log}");
    assert_eq!(before("bytes stack frame"), Some(0), "{what}: local memory\n{log}");
    (before("registers").expect("a number of registers"), before("bytes smem").unwrap_or(0))
}

/// Every variant of the streaming kernels, for one GPU of each target.
#[test]
fn every_variant_assembles_without_spills() {
    let Some(dir) = std::env::var_os("PTXAS_DIR").map(PathBuf::from) else {
        return eprintln!("skipped: PTXAS_DIR is not set");
    };
    let ptxas = dir.join("13.5").join("ptxas");
    let variants = variants();
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR")).join("variants");
    std::fs::create_dir_all(&scratch).unwrap();
    variants.par_iter().enumerate().for_each(|(i, entry)| {
        let source = scratch.join(format!("{i}.ptx"));
        std::fs::write(&source, entry.write().unwrap().ptx).unwrap();
        let gpu = if entry.target == Target::Sm75 { 75 } else { 90 };
        assemble(&ptxas, &entry.file, &source, &arch(entry.target, gpu));
        std::fs::remove_file(&source).unwrap();
    });
    println!("{} variants", variants.len());
}

#[test]
fn every_kernel_assembles_without_spills() {
    let Some(dir) = std::env::var_os("PTXAS_DIR").map(PathBuf::from) else {
        return eprintln!("skipped: PTXAS_DIR is not set");
    };
    let [newest, oldest] = ["13.5", "12.0"].map(|version| dir.join(version).join("ptxas"));
    let mut table = String::from(
        "# What the kernels use\n\nRegisters a thread by ptxas 13.5, for each GPU that a module serves, and bytes of shared memory, static and dynamic.\n\
         Written by `tests/ptxas.rs`. Nothing spills and nothing uses local memory; ptxas 12.0 takes every module, too.\n\n| kernel |",
    );
    GPUS.iter().for_each(|gpu| write!(table, " sm_{gpu} |").unwrap());
    writeln!(table, " shared |\n|---|{}---|", "---|".repeat(GPUS.len())).unwrap();
    for entry in catalogue() {
        write!(table, "| {}/{} |", entry.target, entry.file).unwrap();
        let (mut shared, dynamic) = (0, entry.write().unwrap().shared);
        for gpu in GPUS {
            if !serves(entry.target, gpu) {
                table += " |";
                continue;
            }
            let arch = arch(entry.target, gpu);
            if gpu <= NEWEST_OF_12_0 {
                assemble(&oldest, &entry.file, &source(&entry), &arch);
            }
            let (registers, bytes) = assemble(&newest, &entry.file, &source(&entry), &arch);
            shared = shared.max(bytes + dynamic);
            write!(table, " {registers} |").unwrap();
        }
        writeln!(table, " {shared} |").unwrap();
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("ptx/generated/RESOURCES.md");
    if std::env::var_os("QLK_BLESS").is_some() {
        std::fs::write(&path, &table).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == table, "ptx/generated/RESOURCES.md is out of date: QLK_BLESS=1 cargo test --test ptxas");
}
