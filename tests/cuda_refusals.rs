//! Machines on which a CUDA context cannot be had: each gets its status and message. One test, because the simulated
//! machine is one a process.

#![cfg(target_os = "linux")] // as the simulator is

mod common;

use common::device::*;
use common::*;
use ptx_sim::{Config, Installed};
use qlora_kernels::format::Map256;
use qlora_kernels::{Codebook, Constants, Context, DType, DeviceKind, QuantSpec, Status};

fn refusal() -> (Status, String) {
    let error = Context::cuda(0).err().expect("there is a context");
    (error.status(), error.message().to_owned())
}

#[test]
fn each_machine_gets_its_answer() {
    // No driver: this process has not loaded the simulator yet.
    let real = std::env::var_os("QLK_REAL_CUDA").is_some();
    if !real && DeviceKind::Cuda.count() == 0 {
        let (status, message) = refusal();
        assert_eq!(status, Status::NoDevice);
        assert!(message.contains("NVIDIA driver"), "{message}");
    }
    let Installed::Simulator = ptx_sim::install() else { return };
    let usual = ptx_sim::config();

    ptx_sim::configure(&Config { driver_version: 11_080, ..usual });
    let (status, message) = refusal();
    assert_eq!(status, Status::NoDevice);
    assert_eq!(
        message,
        "the NVIDIA driver serves CUDA 11.8; 12.0 (r525) is the least that this library needs"
    );
    assert_eq!(DeviceKind::Cuda.count(), 0);

    ptx_sim::configure(&Config { device_count: 0, ..usual });
    assert_eq!(refusal(), (Status::NoDevice, "the NVIDIA driver finds no device".to_owned()));
    // The CPU is unaffected.
    assert_eq!((DeviceKind::Cuda.count(), DeviceKind::Cpu.count()), (0, 1));

    ptx_sim::configure(&Config { compute_capability: (7, 0), ..usual });
    let (status, message) = refusal();
    assert_eq!(status, Status::Unsupported);
    assert!(message.contains("compute capability 7.0; 7.5 (Turing) is the least"), "{message}");

    // Turing has modules of its own: no bf16 conversions, no packed ones.
    ptx_sim::configure(&Config { compute_capability: (7, 5), ..usual });
    let gpu = Gpu::new();
    assert_eq!(gpu.context.instruction_set(), "sm_75");
    let all: Vec<f32> = (0..9000).map(|i| f32::from_bits(i * 477_218)).collect();
    for dtype in [DType::F32, DType::F16, DType::Bf16] {
        for at in [ALIGNED, Placement { gaps: [2, 1], codes: 1, tensors: 1 }] {
            let x = Matrix::new(dtype, &all, 90, 100, at.gaps[0]);
            for block_size in [32, 64, 4096] {
                for (codebook, constants) in codebooks().into_iter().zip(constants().into_iter().cycle()) {
                    let spec = QuantSpec::new(codebook, block_size).with_constants(constants);
                    check(&gpu, &x, &spec, dtype, at).unwrap();
                }
            }
            check_8bit(&gpu, &x, &Map256::dynamic_signed(), 256, dtype, at).unwrap();
        }
    }
    drop(gpu);

    // The oldest driver that serves, on the newest GPU.
    ptx_sim::configure(&Config { driver_version: 12_000, compute_capability: (12, 0), ..usual });
    let x = Matrix::new(DType::Bf16, &numbers(1000, 1, &[]), 10, 100, 0);
    let spec = QuantSpec::new(Codebook::Nf4, 64).with_constants(Constants::Fp8);
    check(&Gpu::new(), &x, &spec, DType::F16, ALIGNED).unwrap();
}
