//! Data races (PTX ISA §8): which accesses happen before which, and conflicts between those that are not ordered.
//!
//! The method is FastTrack (Flanagan and Freund, PLDI 2009) with warps as its threads: each warp has a vector clock over the
//! warps of its block; each memory cell remembers its last write and the reads since. Two things differ:
//!
//! - Lanes of a warp are not ordered by running in lockstep. Records name the lane, and accesses of different lanes of one
//!   warp are ordered by `bar.warp.sync` and by barriers of the block only.
//! - Between blocks, order comes from release and acquire patterns on global memory alone ([`SyncTable`]).

mod cell;
mod clock;
mod epoch;
mod sync;

pub use cell::{Conflict, Shadow};
pub use clock::{Past, Reach, Thread, WarpClock, Writer};
pub use epoch::{Epoch, SEVERAL};
pub use sync::SyncTable;
