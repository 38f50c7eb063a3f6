//! The main loops of the matrix products as machine code: how many products of tensor cores, no local memory, accesses as
//! wide as they can be; and of what else they are made, a decoded value, in `ptx/generated/SASS.md`. After a change of a
//! kernel: `QLK_BLESS=1 cargo test --test sass`.
//!
//! Needs the folder `$PTXAS_DIR` with `13.5/ptxas` and `13.5/nvdisasm`; `.ci/ptxas` fetches them. Always the same version: its
//! successors may arrange the code otherwise.

mod example;
mod listing;
mod loops;
mod mix;

use listing::{Listing, Unit};
use mix::{Mix, UNITS, main_loops};
use ptx_asm::Target;
use qlora_kernels::kernels::catalogue::{Entry, catalogue};
use rayon::prelude::*;
use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What a kernel's loops must be: those that [`main_loops`] finds.
struct Expected {
    /// The file's name in the catalogue.
    kernel: &'static str,
    /// Instructions of tensor cores in the main loop.
    tensor: usize,
    /// Codes that a lane decodes in it.
    values: u32,
    /// The same in the loop of the warps that bring data, if others multiply.
    producers: Option<u32>,
    /// Accesses of less than 16 bytes that are meant to be in the main loop.
    narrow: &'static [&'static str],
}

/// Where all warps do the same: the file, products, codes, narrow accesses.
const fn one_loop(
    kernel: &'static str,
    tensor: usize,
    values: u32,
    narrow: &'static [&'static str],
) -> Expected {
    Expected { kernel, tensor, values, producers: None, narrow }
}

/// Where some warps bring data and others multiply: codes in the main loop, and in the other.
const fn two_loops(
    kernel: &'static str,
    tensor: usize,
    values: u32,
    producers: u32,
    narrow: &'static [&'static str],
) -> Expected {
    Expected { kernel, tensor, values, producers: Some(producers), narrow }
}

const FORWARD: &[&str] = &[
    "LDS.64", // a fragment's codes; two columns' constants
    "LDG.8",  // a constant's code
    "LDG.32", // its scale
    "STS.32", // the constant
];
/// The block decodes a chunk by a table.
const BACKWARD: &[&str] = &["LDS.32", "LDG.8", "LDG.32", "STS.32"];

/// The lane's bytes of a row's 16 values.
const WGMMA: &[&str] = &["LDS.32"];

/// Codes of four rows, or of eight; pairs of values, constants and their scales; constants on their way.
const SKINNY: &[&str] = &["LDS.64", "LDS.32", "LDGSTS.32"];
const SKINNY_BACKWARD: &[&str] = &["LDS.32", "LDGSTS.32"];

/// A line for each kernel with products of tensor cores.
///
/// `gemm_mma*` walks in chunks of 64, a warp with rows/2 x 32 of a tile: rows/32 x 4 fragments, 4 products of 16 x 8 x 16
/// each, on Turing 8 of half the depth. Forward a warp decodes its columns, backward a block 64 x 128 together.
///
/// `gemm_skinny*` has a piece of 32 x 64 codes a warp and pass, and for each 8 rows of X or dY 2 x 4 products.
///
/// `gemm_low_rank*` decodes nothing: chunks of 64 terms, a warp with 32 x 32 of a tile, 2 x 4 fragments; twice that where the
/// narrow matrix comes in two parts, three times where the long one does, too.
///
/// `gemm_wgmma*` has products of 64 x tokens x 16, chunks of 64. Forward a pass is two chunks, of which a consumer decodes its
/// warpgroup's 64 rows; backward the producers decode, in a pass of four chunks, 64 x 128 each.
const EXPECTED: &[Expected] = &[
    one_loop("gemm_mma_nf4_f16_fp8_lora_32", 32, 64, FORWARD),
    one_loop("gemm_mma_nf4_f16_fp8_lora_64", 64, 64, FORWARD),
    one_loop("gemm_mma_backward_nf4_f16_fp8_lora_32", 32, 32, BACKWARD),
    one_loop("gemm_mma_backward_nf4_f16_fp8_lora_64", 64, 32, BACKWARD),
    one_loop("gemm_mma_nf4_bf16_fp8_lora_32", 16, 64, FORWARD),
    one_loop("gemm_mma_nf4_bf16_fp8_lora_64", 32, 64, FORWARD),
    one_loop("gemm_mma_nf4_bf16_fp8_lora_128", 64, 64, FORWARD),
    one_loop("gemm_mma_backward_nf4_bf16_fp8_lora_32", 16, 32, BACKWARD),
    one_loop("gemm_mma_backward_nf4_bf16_fp8_lora_64", 32, 32, BACKWARD),
    one_loop("gemm_mma_backward_nf4_bf16_fp8_lora_128", 64, 32, BACKWARD),
    one_loop("gemm_skinny_nf4_bf16_fp8_lora_8x1", 8, 64, SKINNY),
    one_loop("gemm_skinny_nf4_bf16_fp8_lora_16x2", 16, 64, SKINNY),
    one_loop("gemm_skinny_nf4_bf16_fp8_lora_32x8", 32, 64, SKINNY),
    one_loop("gemm_skinny_nf4_bf16_fp8_lora_64x8", 64, 64, SKINNY),
    one_loop("gemm_skinny_backward_nf4_bf16_fp8_lora_8x8", 8, 64, SKINNY_BACKWARD),
    one_loop("gemm_skinny_backward_nf4_bf16_fp8_lora_16x4", 16, 64, SKINNY_BACKWARD),
    one_loop("gemm_skinny_backward_nf4_bf16_fp8_lora_32x2", 32, 64, SKINNY_BACKWARD),
    one_loop("gemm_skinny_backward_nf4_bf16_fp8_lora_64x2", 64, 64, SKINNY_BACKWARD),
    one_loop("gemm_low_rank_t_f16_64", 64, 0, &[]),
    one_loop("gemm_low_rank_t_bf16_64", 32, 0, &[]),
    one_loop("gemm_low_rank_u_bf16_64", 32, 0, &[]),
    one_loop("gemm_low_rank_da_bf16_64", 64, 0, &[]),
    one_loop("gemm_low_rank_db_bf16_64", 64, 0, &[]),
    one_loop("gemm_low_rank_t_f16_f32_64", 96, 0, &[]),
    two_loops("gemm_wgmma_nf4_bf16_fp8_lora_64", 8, 64, 0, WGMMA),
    two_loops("gemm_wgmma_nf4_bf16_fp8_lora_128", 8, 64, 0, WGMMA),
    two_loops("gemm_wgmma_nf4_bf16_fp8_lora_256", 8, 64, 0, WGMMA),
    two_loops("gemm_wgmma_backward_nf4_bf16_fp8_lora_64", 4, 0, 256, &[]),
    two_loops("gemm_wgmma_backward_nf4_bf16_fp8_lora_128", 4, 0, 256, &[]),
    two_loops("gemm_wgmma_backward_nf4_bf16_fp8_lora_256", 4, 0, 256, &[]),
    two_loops("gemm_wgmma_nf4_bf16_fp8_lora_64_parts", 8, 64, 0, WGMMA),
    two_loops("gemm_wgmma_nf4_bf16_fp8_lora_128_parts", 8, 64, 0, WGMMA),
    two_loops("gemm_wgmma_nf4_bf16_fp8_lora_256_parts", 8, 64, 0, WGMMA),
    two_loops("gemm_wgmma_backward_nf4_bf16_fp8_lora_64_parts", 4, 0, 256, &[]),
    two_loops("gemm_wgmma_backward_nf4_bf16_fp8_lora_128_parts", 4, 0, 256, &[]),
    two_loops("gemm_wgmma_backward_nf4_bf16_fp8_lora_256_parts", 4, 0, 256, &[]),
];

/// GPUs whose code is looked at: the first and the most important one that a module serves.
fn gpus(target: Target) -> &'static [&'static str] {
    match target {
        Target::Sm75 => &["sm_75"],
        Target::Sm80 => &["sm_80", "sm_90"],
        Target::Sm90a => &["sm_90a"],
        _ => &[],
    }
}

fn source(entry: &Entry) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("ptx/generated");
    folder.join(entry.target.name()).join(&entry.file).with_extension("ptx")
}

fn disassemble(tools: &Path, name: &str, source: &Path, gpu: &str, scratch: &Path) -> Listing {
    let cubin = scratch.join(format!("{name}_{gpu}.cubin"));
    let run = |tool: &str, args: &[&std::ffi::OsStr]| {
        let output = Command::new(tools.join(tool)).args(args).output();
        let output =
            output.unwrap_or_else(|error| panic!("{}: {error}: run .ci/ptxas", tools.join(tool).display()));
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{tool}, {name} for {gpu}: {errors}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let arch = format!("-arch={gpu}");
    run("ptxas", &[arch.as_ref(), "-o".as_ref(), cubin.as_ref(), source.as_ref()]);
    let text = run("nvdisasm", &[cubin.as_ref()]);
    std::fs::remove_file(&cubin).unwrap();
    Listing::parse(&text)
}

/// Whether a kernel must be listed.
fn uses_tensor_cores(entry: &Entry) -> bool {
    let ptx = entry.write().unwrap().ptx;
    ptx.contains("mma.sync") || ptx.contains("wgmma.mma_async")
}

#[test]
fn the_main_loops_are_as_planned() {
    let Some(tools) = std::env::var_os("PTXAS_DIR").map(|dir| PathBuf::from(dir).join("13.5")) else {
        return eprintln!("skipped: PTXAS_DIR is not set");
    };
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR")).join("sass");
    std::fs::create_dir_all(&scratch).unwrap();
    let mut unseen: BTreeSet<&str> = EXPECTED.iter().map(|expected| expected.kernel).collect();
    let mut kernels = Vec::new();
    for entry in catalogue() {
        let Some(expected) = EXPECTED.iter().find(|expected| expected.kernel == entry.file) else {
            assert!(
                !uses_tensor_cores(&entry),
                "tests/sass/main.rs does not say what {} is to be",
                entry.file
            );
            continue;
        };
        unseen.remove(expected.kernel);
        kernels.extend(gpus(entry.target).iter().map(|gpu| (expected, source(&entry), *gpu)));
    }
    let rows = kernels.par_iter().flat_map_iter(|(expected, source, gpu)| {
        let name = expected.kernel.to_owned();
        let listing = disassemble(&tools, &name, source, gpu, &scratch);
        let [main, producers] = main_loops(&listing);
        let main = main.unwrap_or_else(|| panic!("{name} for {gpu} has no loop"));
        check(expected, gpu, &listing, &main);
        let producers = expected.producers.zip(producers);
        let producers =
            producers.map(|(values, mix)| Row { name: name.clone() + " producers", gpu, values, mix });
        [Row { name, gpu, values: expected.values, mix: main }].into_iter().chain(producers)
    });
    let rows: Vec<Row> = rows.collect();
    assert!(unseen.is_empty(), "not in the catalogue: {unseen:?}");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("ptx/generated/SASS.md");
    let table = markdown(&rows);
    if std::env::var_os("QLK_BLESS").is_some() {
        std::fs::write(&path, &table).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == table, "ptx/generated/SASS.md is out of date: QLK_BLESS=1 cargo test --test sass");
}

fn check(expected: &Expected, gpu: &str, listing: &Listing, mix: &Mix) {
    let what = format!("{} for {gpu}", expected.kernel);
    let local = listing.instructions.iter().find(|i| matches!(i.base(), "LDL" | "STL"));
    assert!(local.is_none(), "{what} uses local memory: {local:?}");
    assert_eq!(mix.count(Unit::Tensor), expected.tensor, "{what}: products of tensor cores in the main loop");
    for (form, count) in &mix.accesses {
        let is_meant = form.ends_with(".128") || expected.narrow.contains(&form.as_str());
        assert!(is_meant, "{what}: {count} {form} in the main loop");
    }
}

/// A row of the tables.
struct Row {
    name: String,
    gpu: &'static str,
    values: u32,
    mix: Mix,
}

fn markdown(rows: &[Row]) -> String {
    let mut text = String::from(
        "# The main loops of the matrix products\n\n\
         Instructions of a warp for one pass, in SASS by ptxas 13.5, and what they are a decoded value (of a lane). Written by\n\
         `tests/sass/main.rs`, which says what is meant by a main loop and by each column.\n\n",
    );
    let mut line =
        |cells: Vec<String>| writeln!(text, "| {} |", cells.join(" | ")).expect("writing to a string");
    let head = |first: &[&str], last: &[&str]| {
        let units = UNITS.iter().map(|(_, name)| *name);
        first.iter().copied().chain(units).chain(last.iter().copied()).map(str::to_owned).collect::<Vec<_>>()
    };
    let rule = |len: usize| vec!["---".to_owned(); len];
    let counts = head(&["kernel", "GPU", "values", "all"], &["of these moves", "accesses"]);
    let columns = counts.len();
    line(counts);
    line(rule(columns));
    for Row { name, gpu, values, mix } in rows {
        let accesses: Vec<_> = mix.accesses.iter().map(|(form, count)| format!("{count} {form}")).collect();
        let mut cells = vec![name.clone(), gpu.to_string(), values.to_string(), mix.all().to_string()];
        cells.extend(UNITS.map(|(unit, _)| mix.count(unit).to_string()));
        cells.extend([mix.moves.to_string(), accesses.join(", ")]);
        line(cells);
    }
    let a_value = head(&["a decoded value", "GPU", "all"], &["of these moves"]);
    let columns = a_value.len();
    text += "\n";
    let mut line =
        |cells: Vec<String>| writeln!(text, "| {} |", cells.join(" | ")).expect("writing to a string");
    line(a_value);
    line(rule(columns));
    for Row { name, gpu, values, mix } in rows.iter().filter(|row| row.values > 0) {
        let each = |count: usize| format!("{:.2}", count as f64 / f64::from(*values));
        let mut cells = vec![name.clone(), gpu.to_string(), each(mix.all())];
        cells.extend(UNITS.map(|(unit, _)| each(mix.count(unit))));
        cells.push(each(mix.moves));
        line(cells);
    }
    text
}
