//! The GPU program's checks pass on the simulated device, find a wrong result, and what it does on a GPU beyond them
//! (timing, captures, the report) goes through the driver without an error. A step with paged states is as its picture shows.

#![cfg(target_os = "linux")] // as the simulator is

#[allow(dead_code)]
#[path = "../benches/gpu/main.rs"]
mod program;

use clap::Parser;
use program::cases::{SMALL, Shape, select};
use program::cublas::Cublas;
use program::data::Noise;
use program::device::Gpu;
use program::options::Options;
use program::products::bench::Bench;
use program::products::exact::Exact;
use program::products::operands::Operands;
use program::products::{self, Benches, Figures, Kind, Product};
use program::reference::{Problem, by_cpu, by_format};
use program::report::{self, Report};
use program::timeline::{self, Operation, RATES};
use program::{Tally, Work, check, check_and_time, copy, goals, launch, link, optimizer, paged, predict};
use ptx_sim::log::{Way, Work as Entered};
use ptx_sim::timeline::{Engine, lay_out, makespan};
use qlora_kernels::{Constants, DType};
use std::path::{Path, PathBuf};
use std::process::Command;

fn gpu() -> Gpu {
    ptx_sim::install();
    Gpu::open(0).unwrap()
}

/// With so small a cache that one set of buffers passes it: the simulator takes its time over each.
fn gpu_without_cache() -> Gpu {
    let mut gpu = gpu();
    gpu.facts.l2_bytes = 0;
    gpu
}

#[test]
fn everything_is_right() {
    let work = Work::select(&Options::parse_from(["gpu"]));
    assert!(work.cases.len() > 80);
    assert_eq!(work.products[0].len(), 3 * (5 + 5 + 3));
    assert_eq!((work.steps.len(), work.paged.len()), (6, 4));
    assert_eq!(work.check_small(&gpu()), Tally::default());
}

/// The program as it is called, with `--simulate` from the command line on.
#[test]
fn the_program_runs() {
    let options = Options::parse_from(["gpu", "--bench", "--simulate", "--only", "double quantize"]);
    assert!(program::run(&options).unwrap());
    let nothing = Options::parse_from(["gpu", "--simulate", "--only", "no such case"]);
    assert!(program::run(&nothing).unwrap_err().to_string().contains("no such case"));
    assert_eq!(Options::parse_from(["gpu", "--elements", "2^26"]).elements, Some(1 << 26));
    assert!(Options::try_parse_from(["gpu", "--elements", "2^99"]).is_err());
}

/// One wrong code among the weight's is found.
#[test]
fn a_wrong_product_is_found() {
    let gpu = gpu();
    for product in products::small(Some("f32 f32, M 3")) {
        let right = Operands::new(&product).unwrap();
        let mut wrong = Operands::new(&product).unwrap();
        wrong.weight.inputs[0][1000] ^= 8;
        let right = Exact::new(&product, &right).all_samples();
        let bench = Bench::new(&gpu, &product, wrong, None).unwrap();
        let message =
            bench.compare(&product, &right).expect_err(&format!("{product}: a wrong code")).to_string();
        assert!(message.starts_with("output 0, row 0, column "), "{message}");
        bench.check(&product).expect_err("values that are not the codes'");
        product.check(&gpu).unwrap();
    }
}

/// The stand-in for cuBLAS, compiled with a flag.
fn stand_in(name: &str, flag: &str) -> PathBuf {
    let library = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/c/cublas.c");
    let status = Command::new("cc")
        .args(["-std=c11", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", flag, "-o"])
        .args([&library, &source])
        .arg("-ldl")
        .status();
    assert!(status.unwrap().success());
    library
}

/// The products by cuBLAS are those that ours are: every kind, odd sizes, with and without an adapter.
#[test]
fn products_are_compared_with_cublas() {
    let gpu = gpu_without_cache();
    let cublas = Cublas::find(&gpu, Some(&stand_in("libcublas.so.13", "-DRIGHT"))).unwrap().unwrap();
    assert!(cublas.description.ends_with("libcublas.so.13, version 1"), "{}", cublas.description);
    let mut report = Report::new(&gpu, Shape::of(4096));
    report.copies = copy::rates(&gpu, copy::GRANULE).unwrap();
    report.cublas = Some(cublas.description.clone());
    for pattern in ["f32 bf16, M 3 ", "fp8 bf16, M 70 ", "f32 f32, M 1 "] {
        for product in products::small(Some(pattern)) {
            let operands = Operands::new(&product).unwrap();
            let bench = Bench::new(&gpu, &product, operands, Some(&cublas)).unwrap();
            report.products.push(bench.check_and_time(&product, 2).unwrap());
        }
    }
    assert_eq!(report.products.len(), 2 + 3 + 3);
    let [first, second, ..] = &mut report.products[..] else { unreachable!() };
    assert_eq!((first.kind, first.m, first.goal), (Kind::Forward, 3, Some(3.2)));
    let seconds = |figures: &mut Figures, ours, theirs| {
        figures.times.median = ours;
        figures.cublas.as_mut().unwrap().median = theirs;
    };
    seconds(first, 1e-3, 3.3e-3);
    seconds(second, 2e-3, 1e-3);
    let table = report.markdown();
    for row in
        ["| 3.3000 | 3.30 | 3.20 | yes |", "| 1.0000 | 0.50 | 3.20 | NO |", "libcublas.so.13, version 1.\n"]
    {
        assert!(table.contains(row), "{table}");
    }
    assert!(!table.contains("nan") && !table.contains("NaN"), "{table}");
}

/// A product that is not the same one is found out, and so is a library that is not there or that refuses.
#[test]
fn a_wrong_cublas_is_found() {
    let gpu = gpu_without_cache();
    let cublas = Cublas::find(&gpu, Some(&stand_in("libcublas_wrong.so", "-DWRONG"))).unwrap().unwrap();
    let timed = |product: &Product| {
        let bench = Bench::new(&gpu, product, Operands::new(product)?, Some(&cublas))?;
        bench.check_and_time(product, 2)
    };
    let constants = Constants::F32;
    let square = Product { kind: Kind::Forward, constants, dtype: DType::Bf16, m: 64, n: 64, k: 64, rank: 0 };
    timed(&Product { kind: Kind::Backward, ..square.clone() }).unwrap(); // dX = dY·W transposes nothing
    for product in [Product { kind: Kind::Gradients, rank: 64, ..square.clone() }, square] {
        let message = timed(&product).unwrap_err().to_string();
        assert!(message.starts_with("cuBLAS's output 0 is off by "), "{product}: {message}");
    }
    let message = timed(&products::small(Some("f16, M 3 ")).remove(0)).unwrap_err().to_string();
    assert_eq!(message, "cublasGemmEx: status 15");

    let options = ["gpu", "--simulate", "--only", "adamw f32", "--cublas", "/no/such/libcublas.so.13"];
    let message = program::run(&Options::parse_from(options)).unwrap_err().to_string();
    assert!(message.starts_with("--cublas: /no/such/libcublas.so.13"), "{message}");
}

/// Products of one weight share memory: fewer rows are the first ones, and what comes after a result is left alone.
#[test]
fn products_share_their_weight() {
    let gpu = gpu_without_cache();
    let mut all = Vec::new();
    for (k, m) in [(128, 5), (128, 70), (128, 1), (64, 33)] {
        for (kind, rank) in [(Kind::Forward, 0), (Kind::Backward, 16), (Kind::Gradients, 16)] {
            let (constants, dtype) = (Constants::Fp8, DType::Bf16);
            all.push(Product { kind, constants, dtype, m, n: 192, k, rank });
        }
    }
    let mut benches = Benches::new(&gpu, None, &all);
    for product in &all {
        let compared =
            benches.of(product).unwrap().check(product).unwrap_or_else(|e| panic!("{product}: {e}"));
        assert!(compared >= product.m.min(16) * 48, "{product}: {compared}");
    }
}

/// The goal's shapes and rows are timed, forward, backward and gradients, products of a weight one after the other.
#[test]
fn the_goals_are_timed() {
    let all = products::large(false, Some(" bf16,"));
    assert_eq!(all.len(), goals::SHAPES.len() * goals::ROWS.len() * 5);
    assert!(all.chunk_by(|a, b| (a.n, a.k) == (b.n, b.k)).count() == goals::SHAPES.len());
    assert!(all.iter().all(|p| p.kind == Kind::Gradients || [0, 64].contains(&p.rank)));
    assert!(products::large(true, None).iter().all(|p| all.contains(p)));
}

/// Without a GPU: every kernel's main loop is in the table, no product beats its floor, and something is the reason.
#[test]
fn the_goals_are_predicted() {
    for kind in [Kind::Forward, Kind::Backward] {
        for (m, [n, k]) in goals::ROWS.into_iter().flat_map(|m| goals::SHAPES.map(|shape| (m, shape))) {
            let (prediction, floor) =
                (predict::product(kind, [m, n, k]).unwrap(), predict::floor(kind, [m, n, k]));
            assert!(prediction.seconds > floor && floor > 0.0, "{kind:?} M {m} N {n} K {k}: {prediction:?}");
        }
    }
    assert!(predict::product(Kind::Gradients, [1, 4096, 4096]).is_none());
    // 8.6 MB of weight by 3 TB/s; 2.2 Tflop by 790 Tflop/s.
    let floors = [1, 65536].map(|m| predict::floor(Kind::Forward, [m, 4096, 4096]));
    assert!(
        (floors[0] / 2.89e-6 - 1.0).abs() < 0.01 && (floors[1] / 2.78e-3 - 1.0).abs() < 0.01,
        "{floors:?}"
    );
    assert!(program::run(&Options::parse_from(["gpu", "--predict"])).unwrap());
}

/// After the time is over nothing more begins.
#[test]
fn a_budget_is_kept() {
    let work = Work::select(&Options::parse_from(["gpu", "--only", "adamw"]));
    let options = Options::parse_from(["gpu", "--budget", "1", "--quick", "--only", "adamw"]);
    assert!(options.deadline().unwrap() <= std::time::Instant::now() + std::time::Duration::from_secs(1));
    assert!(Options::parse_from(["gpu", "--budget", "0"]).deadline().is_none());
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("budget");
    let options = Options { out: folder.clone(), ..options };
    let now = Some(std::time::Instant::now());
    let tally = work.measure(&gpu_without_cache(), None, &options, Shape::of(4096), now).unwrap();
    assert_eq!(tally, Tally { failed: 0, left_out: 10 });
    assert!(std::fs::read_to_string(folder.join("gpu.json")).unwrap().contains("\"left_out\": 10"));
}

/// One flipped bit in any part of what a case must write is found.
#[test]
fn a_wrong_result_is_found() {
    let (gpu, shape) = (gpu(), SMALL[3]);
    for case in select(true, None) {
        // Without NaNs, one of which may stand for another.
        let mut problem = Problem::new(&case, shape, Noise::Weights, &by_format).unwrap();
        for part in 0..problem.expected.len() {
            let at = problem.expected[part].len() / 2;
            problem.expected[part][at] ^= 1;
            let found = check::check(&gpu, &case, shape, &problem);
            problem.expected[part][at] ^= 1;
            let message = found.expect_err(&format!("{case}: a flipped bit")).to_string();
            assert!(message.starts_with(case.outputs(shape)[part].name), "{message}");
        }
        check::check(&gpu, &case, shape, &problem).unwrap();
    }
}

/// The two references agree, so that it does not matter which one a size gets.
#[test]
fn the_references_agree() {
    for case in select(false, None) {
        let [a, b] = [&by_format as &program::reference::Solver, &by_cpu]
            .map(|solve| Problem::new(&case, SMALL[3], Noise::Wild, solve).unwrap().expected);
        for (part, (a, b)) in case.outputs(SMALL[3]).iter().zip(a.iter().zip(&b)) {
            check::compare(part, a, b).unwrap_or_else(|error| panic!("{case}: {error}"));
        }
    }
}

/// What else a GPU gets. The times mean nothing here; the calls and what they leave behind do.
#[test]
fn a_run_is_timed_and_reported() {
    let mut gpu = gpu_without_cache();
    gpu.facts.l2_bytes = 1 << 16; // a few sets of buffers take turns
    let shape = Shape::of(16 * 4096);
    let mut report = Report::new(&gpu, shape);
    report.copies = copy::rates(&gpu, 2 * shape.elements()).unwrap();
    for case in select(true, Some("bf16")) {
        report.cases.push(check_and_time(&gpu, &case, shape, 2).unwrap());
    }
    assert!(report.cases.iter().all(|case| case.times.sets > 1));
    gpu.facts.l2_bytes = 0;
    for product in products::small(Some("f32 f32, M 1 ")) {
        let bench = Bench::new(&gpu, &product, Operands::new(&product).unwrap(), None).unwrap();
        report.products.push(bench.check_and_time(&product, 2).unwrap());
    }
    assert_eq!(report.products.len(), 3);
    for step in optimizer::select(Some("bf16")) {
        report.cases.push(step.check_and_time(&gpu, 1000, 2).unwrap());
    }
    report.link = Some(link::rates(&gpu, 1 << 16, 2).unwrap());
    for step in paged::select(None) {
        report.paged.push(step.check_and_time(&gpu, 150_000, 2).unwrap());
    }
    let small = Shape { rows: 1, cols: 4096 };
    for case in launch::cases(Some("quantize nf4 64 fp8")) {
        report.launches.push(launch::figure(&gpu, &case, small, 2).unwrap());
    }

    // 4.127 bits a parameter in, 16 out.
    let dequantize = report.cases.iter().find(|c| c.name == "dequantize nf4 64 fp8 to bf16").unwrap();
    let constants = shape.elements() / 64;
    assert_eq!(
        dequantize.bytes,
        shape.elements() / 2 + constants + constants / 256 * 4 + 4 + 2 * shape.elements()
    );
    assert_eq!(dequantize.goal, Some(0.9));

    let table = report.markdown();
    for row in [
        "| cuMemcpyDtoDAsync |",
        "| quantize nf4 64 f32 from bf16, strided |",
        "| small calls",
        "| product forward nf4 64 f32 f32, M 1 N 1 K 1 rank 1 |",
        "| adamw bf16 |",
        "| adamw8bit bf16 |",
        "The link, 65536 bytes each way: ",
        "| adamw bf16 streamed | 150000 | 300000 |",
        "| adamw8bit bf16 managed | 150000 | 262144 |",
    ] {
        assert!(table.contains(row), "{table}");
    }
    let folder = std::env::temp_dir().join(format!("gpu-program-{}", std::process::id()));
    report.write(&folder).unwrap();
    let json = std::fs::read_to_string(folder.join("gpu.json")).unwrap();
    let image = std::fs::read_to_string(folder.join("gpu.svg")).unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["cases"].as_array().unwrap().len(), report.cases.len());
    assert!(json["launches"][0]["graph"].as_f64().unwrap() > 0.0);
    assert!(image.contains("</svg>") && image.contains("dequantize nf4 64 fp8 to bf16"));
}

/// A step with states in host memory, by what an H100 and its link can do: both ways of the link are busy at once and never wait,
/// and the kernels run meanwhile. The picture in benches shows it: `QLK_BLESS=1 cargo test --test gpu_program` draws it anew.
#[test]
fn a_paged_step_keeps_the_link_busy() {
    let ptx_sim::Installed::Simulator = ptx_sim::install() else { return };
    let mut log = timeline::record(&gpu(), paged::STREAMED_8BIT, timeline::PARAMETERS).unwrap();
    let operations = timeline::operations(&log);
    let of = |engine| -> Vec<&Operation> {
        operations.iter().filter(|operation| operation.span.engine == Some(engine)).collect()
    };
    let [into, kernels, out] = [Engine::In, Engine::Kernels, Engine::Out].map(of);
    // What passes of four budgets: all but five eighths of one, in windows of an eighth.
    let windows = (4 - 1) * 8 + (8 - 5) + 1;
    let extent = |lane: &[&Operation], window| {
        let spans: Vec<_> = lane.iter().filter(|operation| operation.window == window).collect();
        (spans[0].span.start, spans[spans.len() - 1].span.end)
    };
    for window in 1..=windows {
        let [into, kernels, out] = [&into, &kernels, &out].map(|lane| extent(lane, window));
        assert!(into.1 <= kernels.0 && kernels.1 <= out.0, "window {window}");
    }
    assert_eq!([&into, &kernels, &out].map(|lane| lane[lane.len() - 1].window), [windows; 3]);
    for lane in [&into, &out] {
        let idle = |pair: &[&Operation]| pair[1].span.start - pair[0].span.end;
        assert!(lane.windows(2).all(|pair| idle(pair) < 1e-9), "a way of the link waits");
    }
    // So the step takes what the first window's copies in and kernels take, and then all copies out. Each of a window's two states
    // has a copy for its codes and one for its scales: 20 µs besides the 600 µs of a window's 33 MB.
    let one_way = log.iter().map(|entry| match entry.work {
        Entered::Copy { way: Way::ToHost, bytes } => bytes as f64 / RATES.link_out,
        _ => 0.0,
    });
    let one_way: f64 = one_way.sum();
    let [first_in, first_kernels] =
        [&into, &kernels].map(|lane| extent(lane, 1)).map(|(start, end)| end - start);
    let step = operations.iter().map(|operation| operation.span.end).fold(0.0, f64::max);
    let expected = first_in + first_kernels + one_way + RATES.copy * (4 * windows) as f64;
    assert!((step - expected).abs() < 1e-9, "{step} s, {expected} s");
    assert!(step < 1.1 * one_way, "{step} s, {one_way} s");
    // In one stream, each operation after the one before, it would take both ways' copies one after the other and all kernels.
    log.iter_mut().for_each(|entry| entry.stream = 1);
    let serial = makespan(&lay_out(&log, &RATES));
    println!("{:.2} ms, of one way {:.2}, in one stream {:.2}", step * 1e3, one_way * 1e3, serial * 1e3);
    assert!(serial > 2.0 * one_way && serial > 2.0 * step, "{serial} s, {step} s");

    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/paged.svg");
    let drawn = Path::new(env!("CARGO_TARGET_TMPDIR")).join("paged.svg");
    timeline::draw(&drawn, &operations).unwrap();
    if std::env::var_os("QLK_BLESS").is_some() {
        std::fs::copy(&drawn, &committed).unwrap();
    }
    let [drawn, committed] = [drawn, committed].map(|path| std::fs::read_to_string(path).unwrap_or_default());
    assert!(
        drawn == committed,
        "benches/paged.svg is out of date: QLK_BLESS=1 cargo test --test gpu_program"
    );
}

#[test]
fn dates() {
    assert_eq!(
        [0, 59, 11_016, 20_454].map(report::date),
        ["1970-01-01", "1970-03-01", "2000-02-29", "2026-01-01"]
    );
}
