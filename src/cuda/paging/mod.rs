//! States of optimizers that do not all fit in the device's memory.
//!
//! | file | what |
//! |---|---|
//! | [`pipeline`] | the order of a step whose windows come and go: streams and events |
//! | [`streamed`] | states in page-locked memory, copied to the device and back |
//! | [`managed`] | states in unified memory, prefetched to the device and back |

pub mod managed;
pub mod pipeline;
pub mod streamed;
