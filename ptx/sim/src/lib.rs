//! Runs PTX text on the CPU, behind a stand-in for the CUDA driver.
//!
//! Production code runs unmodified in tests on machines without a GPU: [`install`] loads this crate's own shared library under
//! the name `libcuda.so`, and everything that looks for a driver afterwards (cudarc, cust, a loader of one's own) finds it.
//! Kernels are parsed from the text that would go to the real driver, executed exactly, and checked while they run.
//!
//! ```no_run
//! ptx_sim::install();
//! // … the program under test: contexts, modules, launches …
//! let stats = ptx_sim::counters().total();
//! assert_eq!(stats.global_loads.of_width(16), 4096);
//! assert_eq!(stats.bank_conflicts, 0);
//! ```
//!
//! Besides counts there is a [`log`] of everything that was put into streams, which [`timeline`] lays out by a model of time.
//!
//! # The map
//!
//! | module | what lives there |
//! |---|---|
//! | `parse` | text to a syntax tree |
//! | `isa` | the instruction set: what each instruction means, one file a family |
//! | `exec` | running kernels: lanes, warps, blocks, grids; memory accesses, barriers, asynchronous copies, matrices |
//! | `memory` | simulated memory: addresses, allocations, which bytes were written |
//! | `race` | which accesses are ordered, and conflicts between those that are not |
//! | `driver` | the driver API, exported as C functions |
//! | [`log`] | what was put into streams, and in which order it was executed |
//! | [`timeline`] | when the operations of a log would be done, by given rates; uses the log's types and nothing else |
//!
//! ```text
//! install → driver → exec → isa → parse
//!                         → memory → race
//! ```
//!
//! Who is further left may use all that is further right. Besides, `isa` takes from `exec` the registers' layout (`exec::lanes`)
//! and from `memory` the windows of the generic address space; `exec` and `driver` fill in `counters`, `log` and `fault`, `fault`
//! takes from `driver` the status codes, and `memory` from `log` the names of places.
//!
//! # What is checked
//!
//! Each of these ends the kernel with a [`Fault`] that names the kernel, the line, the block and the thread, and is kept by the
//! context as an error, as on hardware:
//!
//! - accesses outside every allocation (exactly; allocations have red zones, and addresses are not used again while there are
//!   fresh ones), outside shared, local and parameter memory, and misaligned ones;
//! - reads of memory that nobody has written: device memory, shared memory, local memory;
//! - data races, in shared and in global memory;
//! - global memory that is touched before `griddepcontrol.wait` in a launch that may overlap the one ahead of it;
//! - a missing wait or fence of an asynchronous copy (`cp.async`, bulk copies, tensor copies) or product (`wgmma`), and a missing
//!   proxy fence between ordinary writes and the async proxy;
//! - collective instructions whose threads are not all there, misused barriers, and deadlocks;
//! - an instruction, a modifier or an operand that is not known, when the module is loaded.
//!
//! # The memory model that is checked
//!
//! Two accesses to the same byte, at least one of them a write, must be ordered (PTX ISA §8.7.1) unless both are strong: atomic,
//! volatile or relaxed. Order comes from
//!
//! - the program, within a thread. Lanes of a warp are not ordered by running in lockstep;
//! - `bar.warp.sync`, between its members. Shuffles and votes order nothing;
//! - `bar`/`barrier` by number and count, `barrier.cluster`, `mbarrier` arrivals and completed waits;
//! - release and acquire patterns: `st.release`, `ld.acquire`, `atom.acq_rel`, or a fence before a strong write and a fence
//!   after a strong read. A barrier carries fences on. Between threads of different blocks accesses and fences must be of gpu
//!   scope or wider, within a block any scope serves;
//! - the boundaries of kernels.
//!
//! Lanes of one warp may write the same value to the same place. A read-only load (`.nc`) must not meet any write of its kernel,
//! before or after. Rows of `ldmatrix` and `stmatrix` are accesses of all lanes, not of the one that gives the address.
//! Accesses of different kernels and copies in streams that nothing orders are not compared; that such streams may run in any
//! order shows by their results. For each missing wait there is an order among [`StreamOrder::First`] of all streams that has the
//! work come too early; the other orders miss some.
//!
//! A cluster is simulated as one block with the warps and the shared memory of all of its blocks; what it can reach of a block
//! that has ended is a fault.
//!
//! Coarser than the manual, on the side of silence: within a cluster block scope serves; a strong read is held to see all
//! earlier releases of its location; a warp acquires for all of its lanes; relaxed `mbarrier` operations count as release and
//! acquire; of two warps of different blocks that read a byte one may be forgotten (each has one of 32 places, which its
//! block's and its own number give); the source in global memory of `cp.async` and bulk loads is read when they are issued, and
//! free from then on; whether fences separate the async proxy from ordinary accesses to global memory, or from ordinary reads
//! of shared memory, is not looked at; that the four warps of a warpgroup execute the same `wgmma` is not, either.
//! `mbarrier.test_wait` tells the truth at once, so that a missing loop around it may not show (`try_wait` fails the first
//! time).
//!
//! Memory registered by `cuMemHostRegister` is not looked at at all, and page-locked and managed memory counts as written.
//! Registers that are read before they are written hold a conspicuous value; that is no fault by itself.
//!
//! Coarser on the side of noise: lanes of one warp at the same instruction that name different sets of members (`shfl.sync` and
//! the like) are a fault, though the manual allows it; of lanes of one warp that arrive at something by different instructions,
//! only the last arrival's are known to have come before; a loop in which one lane waits for another lane of its warp that is
//! further on in the text runs into the instruction limit, because lanes behind run first.
//!
//! # What is computed
//!
//! Integer and IEEE arithmetic, conversions and their roundings exactly; subnormals are kept unless `.ftz` says otherwise; f32
//! arithmetic returns NaN as 0x7fffffff. Approximate instructions (`.approx`, `.full`) return the exact result moved by up to one
//! unit in the last place, up or down by a hash of the operand, so that no test can rely on exactness. Hardware may be further
//! off: `tanh` by 2^-11 of the result, `sin` and `cos` by 2^-20.5, `lg2` by 2^-22 near 1, `ex2` and `div` by two units. At zeros
//! and infinities results are exact, as in the manual's tables. Matrix products are exact sums rounded once, where hardware
//! promises only "at least single precision".
//!
//! # Managed memory
//!
//! Pages of 4 KiB are in the host's memory or a device's. They start at the host, come by prefetches and by page faults of
//! kernels, and leave for the host by prefetches and when others need the room, those first that came first. [`Counters`] say how
//! much was prefetched, fetched by faults, reached where it was and evicted. Pinned and managed memory may be larger than the
//! device's; together they have the limit [`Config::host_memory`].
//!
//! Coarser than hardware: the driver fetches up to 2 MiB at a fault; accesses of the host and of copies and memsets move nothing;
//! a kernel makes others' pages leave only when it has ended, so that one which touches more than fits fetches each page once;
//! what is to be read mostly is not duplicated; SET_ACCESSED_BY holds for all devices. Without CONCURRENT_MANAGED_ACCESS pages
//! do not move, and that the host must not touch them while a kernel runs is not looked at, nor is who they are attached to.
//!
//! # What is not there
//!
//! Clusters of more than 1024 threads or along y and z, their size as a launch attribute, generic addresses of other blocks'
//! shared memory, functions (`.func`, `call`), textures and surfaces, `wmma`, sparse products, f64 matrix products, `mma` of
//! 4-bit and 1-bit integers, `tcgen05`, `multimem`, bulk reductions, interleaved and im2col tensor maps; in the driver,
//! everything but memory, modules, launches, streams, events, captured graphs and tensor maps. Such instructions are refused,
//! such functions answer NOT_SUPPORTED. Peer access is one of them, so a kernel reaches no other device's memory. Bank
//! conflicts of shared atomics are not counted. Time is not simulated (only modelled, by [`timeline`]), and nobody checks that a
//! module's `.target` and `.version` have the instructions that it uses: that is for ptxas.

#![cfg(target_os = "linux")] // whose loader finds a library by the name in it, and which lends more address space than there is memory
#![warn(missing_docs)]

mod config;
mod counters;
mod driver;
mod exec;
mod fault;
mod install;
mod isa;
pub mod log;
mod memory;
mod parse;
mod race;
pub mod timeline;

pub use config::{Config, StreamOrder};
pub use counters::{Counters, Launch, Stats, Traffic};
pub use fault::{Fault, FaultKind};
pub use install::{
    Installed, clear_faults, config, configure, counters, install, install_simulator, last_fault, reset,
    reset_counters,
};
