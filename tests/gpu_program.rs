//! The GPU program's checks pass on the simulated device, find a wrong result, and what it does on a GPU beyond them
//! (timing, captures, the report) goes through the driver without an error.

#[allow(dead_code)]
#[path = "../benches/gpu/main.rs"]
mod program;

use clap::Parser;
use program::cases::{SMALL, Shape, select};
use program::data::Noise;
use program::device::Gpu;
use program::options::Options;
use program::reference::{Problem, by_cpu, by_format};
use program::report::{self, Report};
use program::{Work, check, check_and_time, copy, launch, optimizer, products};

fn gpu() -> Gpu {
    ptx_sim::install();
    Gpu::open(0).unwrap()
}

#[test]
fn everything_is_right() {
    let work = Work::select(&Options::parse_from(["gpu"]));
    assert!(work.cases.len() > 80);
    assert_eq!(work.products[0].len(), 3 * (5 + 5 + 3));
    assert_eq!(work.steps.len(), 3);
    assert_eq!(work.check_small(&gpu()), 0);
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
        let right = products::Operands::new(&product).unwrap();
        let mut wrong = products::Operands::new(&product).unwrap();
        wrong.weight.inputs[0][1000] ^= 8;
        let call = products::Call::new(&gpu, &product, &wrong).unwrap();
        let message = product.compare(&gpu, &right, &call).expect_err("a wrong code").to_string();
        assert!(message.starts_with("output 0, row 0, column "), "{message}");
        product.compare(&gpu, &wrong, &call).expect_err("values that are not the codes'");
        product.check(&gpu).unwrap();
    }
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
    let gpu = gpu();
    let shape = Shape::of(16 * 4096);
    let mut report = Report::new(&gpu, shape);
    report.copies = copy::rates(&gpu, 2 * shape.elements()).unwrap();
    for case in select(true, Some("bf16")) {
        report.cases.push(check_and_time(&gpu, &case, shape, 2).unwrap());
    }
    for product in products::small(Some("f32 f32, M 1 ")) {
        report.products.push(product.check_and_time(&gpu, 2).unwrap());
    }
    assert_eq!(report.products.len(), 3);
    for step in optimizer::select(Some("bf16")) {
        report.cases.push(step.check_and_time(&gpu, 1000, 2).unwrap());
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

#[test]
fn dates() {
    assert_eq!(
        [0, 59, 11_016, 20_454].map(report::date),
        ["1970-01-01", "1970-03-01", "2000-02-29", "2026-01-01"]
    );
}
