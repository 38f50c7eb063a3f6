//! The simulator reads what the builder writes: every instruction form, with registers and with constants. What it does not
//! run is listed here, so that a form that stops being understood shows.

#![cfg(target_os = "linux")] // as the simulator is

use cudarc::driver::{CudaContext, sys};
use ptx_asm::{Module, Operands, Target, forms};
use ptx_sim::{Config, Installed};
use std::collections::BTreeSet;

/// Opcodes, or their beginnings up to a dot or colon, that the simulator has no meaning for; a module with one is refused.
const NOT_RUN: &[&str] = &[
    // Addresses, stores and copies between the blocks of a cluster.
    "getctarank",
    "st.async",
    "cp.async.bulk.shared::cluster.shared::cta",
    // Reductions by the asynchronous proxy, and its rarer fences and counts.
    "cp.reduce.async.bulk",
    "fence.proxy.alias",
    "fence.proxy.tensormap",
    "mbarrier.arrive.noComplete",
    "mbarrier.pending_count",
    // Matrix products of 4-bit integers.
    "mma.sync.aligned.m16n8k64",
];

#[test]
fn the_simulator_understands_every_form() {
    let Installed::Simulator = ptx_sim::install() else { return };
    // The newest driver; wgmma runs on compute capability 9.0 only.
    ptx_sim::configure(&Config { driver_version: 13_040, compute_capability: (9, 0), ..ptx_sim::config() });
    let _context = CudaContext::new(0).unwrap();
    let (mut read, mut refused) = (0, BTreeSet::new());
    for form in forms().iter().filter(|form| Target::Sm90a.has(form.needs)) {
        for operands in [Operands::Registers, Operands::Constants] {
            let mut module = Module::new(Target::Sm90a);
            module.kernel("form", |k| (form.sample)(k, operands));
            let text = std::ffi::CString::new(module.to_ptx().unwrap()).unwrap();
            let mut loaded = std::ptr::null_mut();
            // SAFETY: a zero-terminated text, a valid pointer.
            let result = unsafe { sys::cuModuleLoadData(&mut loaded, text.as_ptr().cast()) };
            if result == sys::CUresult::CUDA_SUCCESS {
                read += 1;
                unsafe { sys::cuModuleUnload(loaded) };
            } else {
                refused.insert(form.opcode.clone());
            }
        }
    }
    println!("{read} understood");
    let begins = |opcode: &str, name: &str| {
        let rest = opcode.strip_prefix(name);
        rest.is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_alphanumeric()))
    };
    let unexpected: Vec<_> = refused.iter().filter(|o| !NOT_RUN.iter().any(|name| begins(o, name))).collect();
    assert!(unexpected.is_empty(), "not understood: {unexpected:#?}");
    let outdated: Vec<_> = NOT_RUN.iter().filter(|name| !refused.iter().any(|o| begins(o, name))).collect();
    assert!(outdated.is_empty(), "understood after all: {outdated:#?}");
    assert!(read > 1500, "{read}");
}
